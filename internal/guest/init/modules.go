package guestinit

import (
	"errors"
	"os"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// module is one line of /modules/order.
type module struct {
	file string   // "virtio_blk.ko"
	deps []string // files that must be loaded before it
}

// parseOrder reads /modules/order: a line for each module, in an order in
// which they could be loaded one by one; first its file name, then, separated
// by spaces, the file names of those that it waits for. A module that waits
// for one that does not stand above it is refused.
func parseOrder(text string) ([]module, error) {
	var modules []module
	seen := map[string]bool{}
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		for _, dep := range fields[1:] {
			if !seen[dep] {
				return nil, errors.New("cannot load " + fields[0] + ": it comes before " + dep + ", which it needs")
			}
		}
		seen[fields[0]] = true
		modules = append(modules, module{fields[0], fields[1:]})
	}
	return modules, nil
}

// loader loads modules side by side, each as soon as those it needs are there.
type loader struct {
	done map[string]chan struct{}
	all  sync.WaitGroup
	mu   sync.Mutex
	err  error // the first one
}

// startModules begins to load what dir's order file names and does not wait.
func startModules(dir string) (*loader, error) {
	order, err := os.ReadFile(dir + "/order")
	if err != nil {
		return nil, cannot("read the list of kernel modules", err)
	}
	modules, err := parseOrder(string(order))
	if err != nil {
		return nil, err
	}
	// All are opened now: the initramfs is given up while the last ones load.
	files, err := openModules(dir, modules)
	if err != nil {
		return nil, err
	}
	l := &loader{done: map[string]chan struct{}{}}
	for _, m := range modules {
		l.done[m.file] = make(chan struct{})
	}
	for i, m := range modules {
		l.all.Go(func() { l.load(files[i], m) })
	}
	return l, nil
}

func openModules(dir string, modules []module) ([]*os.File, error) {
	var files []*os.File
	for _, m := range modules {
		file, err := os.Open(dir + "/" + m.file)
		if err != nil {
			return nil, cannot("load a kernel module", err)
		}
		files = append(files, file)
	}
	return files, nil
}

func (l *loader) load(file *os.File, m module) {
	defer close(l.done[m.file])
	defer file.Close()
	for _, dep := range m.deps {
		<-l.done[dep]
	}
	if err := loadModule(file); err != nil {
		l.fail(err)
	}
}

func (l *loader) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil {
		l.err = err
	}
}

// waitFor returns when the modules named are loaded. One that the initramfs
// does not carry is taken to be built into the kernel.
func (l *loader) waitFor(files ...string) error {
	for _, file := range files {
		if done, ok := l.done[file]; ok {
			<-done
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// wait returns when every module is loaded.
func (l *loader) wait() error {
	l.all.Wait()
	return l.err
}

// loadModule loads one uncompressed module; one that is there already is fine.
func loadModule(file *os.File) error {
	err := unix.FinitModule(int(file.Fd()), "", 0)
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	return cannot("load kernel module "+file.Name(), err)
}
