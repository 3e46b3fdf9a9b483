// Package lives has only tests: whole lives of VMs, with the real bangerd, the
// real network and disk, and a VMM that boots in milliseconds. Everything is
// killed everywhere, and what is then on the host is held against what bangerd
// says.
package lives
