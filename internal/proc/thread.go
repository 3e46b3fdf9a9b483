package proc

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// OnThrowawayThread runs do on a thread that ends after it. The main thread
// cannot end, so when the goroutine finds itself there it holds that thread
// while another goroutine, which thus runs elsewhere, does the work.
func OnThrowawayThread(do func()) {
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() != unix.Getpid() {
			do() // and leave locked: the thread ends with the goroutine
			return
		}
		defer runtime.UnlockOSThread()
		finished := make(chan struct{})
		go func() {
			defer close(finished)
			runtime.LockOSThread()
			do()
		}()
		<-finished
	}()
}
