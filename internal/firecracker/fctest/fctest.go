// Package fctest holds what tests of VMMs need: a [Memory] machine, whose
// guest is a Go function and which together with package fcserver is a whole
// small VMM (program fcmem), and a conformance suite ([Run], [RunGuest]) that
// every VMM passes: fcmem, fcqemu and Firecracker itself.
package fctest
