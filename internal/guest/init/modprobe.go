package guestinit

import (
	"errors"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// modprobePath is a copy of this program that answers the kernel's requests for
// modules where the image's own programs can't, or can only half: an image
// without kmod still gets overlay, tun or /dev/kvm at their first use.
const modprobePath = "/run/banger/modprobe"

// serveModuleRequests makes the kernel call this program when it wants a
// module, and makes the device nodes whose first use is such a request.
func serveModuleRequests() error {
	devnames, err := os.ReadFile(moduleTree() + "modules.devname")
	if err != nil {
		return nil // the kernel has no modules
	}
	if err := copyProgram("/proc/self/exe", modprobePath); err != nil {
		return err
	}
	for _, node := range parseDevnames(string(devnames)) {
		if err := node.make(); err != nil {
			return err
		}
	}
	return cannot("take the kernel's requests for modules", writeFile("/proc/sys/kernel/modprobe", modprobePath))
}

// moduleTree is where the running kernel's modules are, with a slash at its
// end.
func moduleTree() string {
	var uname unix.Utsname
	_ = unix.Uname(&uname) // can't fail
	return modulesDir + "/" + unix.ByteSliceToString(uname.Release[:]) + "/"
}

// deviceNode is a line of modules.devname.
type deviceNode struct {
	path         string // "/dev/net/tun"
	kind         uint32 // S_IFCHR or S_IFBLK
	major, minor uint32
}

// parseDevnames reads modules.devname (kmod, depmod -m): "tun net/tun c10:200".
// Lines that it can't read are left out: they would only cost a node.
func parseDevnames(text string) []deviceNode {
	var nodes []deviceNode
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) != 3 || len(fields[2]) < 2 || strings.Contains(fields[1], "..") {
			continue
		}
		majorText, minorText, _ := strings.Cut(fields[2][1:], ":")
		major, err1 := strconv.ParseUint(majorText, 10, 12)
		minor, err2 := strconv.ParseUint(minorText, 10, 20)
		kind, ok := map[byte]uint32{'c': unix.S_IFCHR, 'b': unix.S_IFBLK}[fields[2][0]]
		if err1 == nil && err2 == nil && ok {
			nodes = append(nodes, deviceNode{"/dev/" + fields[1], kind, uint32(major), uint32(minor)})
		}
	}
	return nodes
}

func (n deviceNode) make() error {
	if err := os.MkdirAll(parent(n.path), 0o755); err != nil {
		return cannot("make "+n.path, err)
	}
	mode := uint32(0o600)
	if n.path == "/dev/kvm" || n.path == "/dev/net/tun" || n.path == "/dev/fuse" {
		mode = 0o666 // as udev has them
	}
	err := unix.Mknod(n.path, n.kind|mode, int(unix.Mkdev(n.major, n.minor)))
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	if err != nil {
		return cannot("make "+n.path, err)
	}
	return cannot("make "+n.path, unix.Chmod(n.path, mode))
}

// modprobe answers one request, in the form in which the kernel makes it:
// modprobe -q -- NAME.
func modprobe(args []string) error {
	if len(args) == 0 {
		return errors.New("cannot load a kernel module: none was named")
	}
	return newModuleIndex(moduleTree()).load(args[len(args)-1])
}

// moduleIndex is what depmod wrote about the modules in dir.
type moduleIndex struct {
	dir     string
	deps    string // modules.dep
	aliases string // modules.alias
}

func newModuleIndex(dir string) moduleIndex {
	deps, _ := os.ReadFile(dir + "modules.dep")
	aliases, _ := os.ReadFile(dir + "modules.alias")
	return moduleIndex{dir, string(deps), string(aliases)}
}

// load loads what name stands for, a module or an alias, after those it needs.
func (x moduleIndex) load(name string) error {
	modules := x.resolve(name)
	if name == kvmRequest {
		modules = []string{kvmModule()}
	}
	for _, module := range modules {
		for _, path := range dependencies(x.deps, module) {
			if err := loadModuleAt(x.dir + path); err != nil {
				return err
			}
		}
	}
	return nil
}

func loadModuleAt(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return cannot("load a kernel module", err)
	}
	defer file.Close()
	return loadModule(file)
}

// resolve gives the names of the modules that a request means. Requests that
// the kernel makes by itself name an alias in full, so patterns are not
// matched; buses with patterns are udev's.
func (x moduleIndex) resolve(name string) []string {
	if dependencies(x.deps, name) != nil {
		return []string{name}
	}
	var modules []string
	for line := range strings.Lines(x.aliases) {
		fields := strings.Fields(line) // alias fs-overlay overlay
		if len(fields) == 3 && fields[1] == name {
			modules = append(modules, fields[2])
		}
	}
	return modules
}

func contains(list []string, name string) bool {
	for _, entry := range list {
		if entry == name {
			return true
		}
	}
	return false
}

// kvmNode is not in modules.devname: on x86 the device belongs to no one
// module. udev loads the right one by the processor's alias, where there is an
// udev, and late in the boot.
var kvmNode = deviceNode{"/dev/kvm", unix.S_IFCHR, 10, 232}

// offerKVM makes /dev/kvm work from the first moment on where the processor has
// virtualization: its first opening loads the module.
func offerKVM(module string) error {
	if module == "" {
		return nil
	}
	if err := kvmNode.make(); err != nil {
		return err
	}
	return writeFiles([]runtimeFile{{"/run/modprobe.d/banger-kvm.conf", "alias " + kvmRequest + " " + module + "\n"}})
}

// kvmRequest is what the kernel asks for when that node is opened.
const kvmRequest = "char-major-10-232"

// kvmModule names the module behind /dev/kvm on this processor, which the
// device's own alias does not.
func kvmModule() string {
	info, _ := os.ReadFile("/proc/cpuinfo")
	return kvmModuleFor(string(info))
}

// kvmModuleFor names the module for the processor that /proc/cpuinfo describes,
// or nothing.
func kvmModuleFor(cpuinfo string) string {
	for line := range strings.Lines(cpuinfo) {
		key, flags, _ := strings.Cut(line, ":")
		if strings.TrimSpace(key) != "flags" {
			continue
		}
		switch list := strings.Fields(flags); {
		case contains(list, "svm"):
			return "kvm_amd"
		case contains(list, "vmx"):
			return "kvm_intel"
		}
		return ""
	}
	return ""
}

// dependencies reads modules.dep and gives the paths to load, in order, for the
// module of this name; nil when there is none. A module's file may have dashes
// where its name has underscores.
func dependencies(dep, name string) []string {
	want := moduleName(name)
	for line := range strings.Lines(dep) {
		path, needs, _ := strings.Cut(strings.TrimSpace(line), ":")
		if moduleName(strings.TrimSuffix(lastElement(path), ".ko")) != want {
			continue
		}
		chain := []string{path}
		for _, need := range strings.Fields(needs) {
			chain = append([]string{need}, chain...) // each stands before those that it needs
		}
		return chain
	}
	return nil
}

func moduleName(name string) string { return strings.ReplaceAll(name, "-", "_") }
