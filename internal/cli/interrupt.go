package cli

import (
	"os"
	"os/signal"
	"sync"
	"syscall"
)

// interrupts decides what a signal to banger means: at first that the user
// gives up, while a command runs in the guest that the command is meant.
type interrupts struct {
	mu     sync.Mutex
	handle func(syscall.Signal)
}

// watchInterrupts catches the signals by which a person or a system ends a
// program, so that terminals are restored and sessions ended on every way out.
func watchInterrupts(giveUp func()) *interrupts {
	i := &interrupts{handle: func(syscall.Signal) { giveUp() }}
	caught := make(chan os.Signal, 8)
	signal.Notify(caught, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	go func() {
		for s := range caught {
			i.mu.Lock()
			handle := i.handle
			i.mu.Unlock()
			handle(s.(syscall.Signal))
		}
	}()
	return i
}

// divert hands signals to handle until the function it returns is called.
func (i *interrupts) divert(handle func(syscall.Signal)) (restore func()) {
	i.mu.Lock()
	defer i.mu.Unlock()
	before := i.handle
	i.handle = handle
	return func() {
		i.mu.Lock()
		defer i.mu.Unlock()
		i.handle = before
	}
}
