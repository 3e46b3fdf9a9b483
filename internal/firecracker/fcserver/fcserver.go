// Package fcserver serves Firecracker's HTTP API, with Firecracker's own
// rules and error texts, over any [Machine]. A VMM of ours is
//
//	func main() { os.Exit(fcserver.Main(os.Args[1:], &machine{})) }
//
// and takes the flags of Firecracker, opens and binds what Firecracker opens
// and binds and when it does, and ends with Firecracker's exit codes.
//
// The rules were read in the source of the release that [Version] names and
// compared with its binary by the suite in package fctest, which runs against
// both.
package fcserver

// Version is the Firecracker release whose API is served: its paths, its
// fields and no others.
const Version = "1.12.1"
