package tsc

const supported = true

// counter is RDTSC after everything before it is done.
func counter() uint64
