// Package testdaemon is a small working bangerd for tests of its clients: it
// keeps VMs in memory and runs their commands as processes of the host. It
// imports nothing of the daemon, so that a client is tested against the wire
// and not against the daemon's own idea of it. Its zero value is ready.
package testdaemon

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/banger-vm/banger/api"
)

// Wedged is an image whose guests never get ready, and Broken one that can't
// be started at all.
const (
	Wedged = "wedged"
	Broken = "broken"
)

// Image is the image that the daemon has from the start.
const Image = "debian-bookworm"

// Daemon serves the routes of bangerd.
type Daemon struct {
	Version string // it claims; "" is api.Version
	SSH     func(net.Conn)
	SSHInfo api.SSHInfo
	Unfit   bool // doctor finds that no VM can run here

	mu     sync.Mutex
	vms    []*api.VM
	images []api.Image
	made   int
	ended  chan struct{}
	once   sync.Once
}

// Ended is closed when the daemon was asked to shut down.
func (d *Daemon) Ended() <-chan struct{} {
	d.once.Do(func() { d.ended = make(chan struct{}) })
	return d.ended
}

// ServeHTTP answers like bangerd.
func (d *Daemon) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set(api.VersionHeader, cmp.Or(d.Version, api.Version))
	routes := http.NewServeMux()
	routes.HandleFunc("GET /v1/status", d.status)
	routes.HandleFunc("POST /v1/shutdown", d.shutdown)
	routes.HandleFunc("GET /v1/vms", d.list)
	routes.HandleFunc("POST /v1/vms", d.create)
	routes.HandleFunc("POST /v1/prune", d.prune)
	routes.HandleFunc("GET /v1/vms/{vm}", d.withVM(d.show))
	routes.HandleFunc("POST /v1/vms/{vm}/{deed}", d.withVM(d.change))
	routes.HandleFunc("POST /v1/vms/{vm}/exec", d.withVM(d.exec))
	routes.HandleFunc("POST /v1/vms/{vm}/ssh", d.withVM(d.ssh))
	routes.HandleFunc("GET /v1/vms/{vm}/ssh", d.withVM(func(w http.ResponseWriter, _ *http.Request, _ *api.VM) {
		answer(w, d.SSHInfo)
	}))
	routes.HandleFunc("GET /v1/vms/{vm}/logs", d.withVM(d.logs))
	routes.HandleFunc("GET /v1/images", d.listImages)
	routes.HandleFunc("POST /v1/images", d.register)
	routes.HandleFunc("GET /v1/images/{name}", d.showImage)
	routes.HandleFunc("DELETE /v1/images/{name}", d.deleteImage)
	routes.HandleFunc("GET /v1/kernels", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, []api.Kernel{{Name: "generic-6.12", Source: "catalog", Version: "6.12.48", Local: true, Size: 61 << 20}})
	})
	routes.HandleFunc("GET /v1/doctor", d.doctor)
	routes.HandleFunc("POST /v1/doctor/fix", d.doctorFix)
	routes.ServeHTTP(w, r)
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(v)
}

func refuse(w http.ResponseWriter, status int, e api.Error) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(e)
}

func (d *Daemon) status(w http.ResponseWriter, _ *http.Request) {
	d.mu.Lock()
	defer d.mu.Unlock()
	running := 0
	for _, v := range d.vms {
		if v.State == api.StateRunning {
			running++
		}
	}
	answer(w, api.DaemonStatus{Version: cmp.Or(d.Version, api.Version), PID: os.Getpid(),
		Started: time.Now().Add(-time.Hour), VMs: len(d.vms), Running: running})
}

func (d *Daemon) shutdown(w http.ResponseWriter, _ *http.Request) {
	ended := d.Ended()
	answer(w, struct{}{})
	select {
	case <-ended:
	default:
		close(d.ended)
	}
}

func (d *Daemon) list(w http.ResponseWriter, _ *http.Request) {
	d.mu.Lock()
	defer d.mu.Unlock()
	vms := []api.VM{}
	for _, v := range d.vms {
		vms = append(vms, *v)
	}
	answer(w, vms)
}

// find gives the VM of a name or id. The caller holds mu.
func (d *Daemon) find(name string) *api.VM {
	for _, v := range d.vms {
		if v.Name == name || v.ID == name {
			return v
		}
	}
	return nil
}

func (d *Daemon) withVM(f func(http.ResponseWriter, *http.Request, *api.VM)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		d.mu.Lock()
		v := d.find(r.PathValue("vm"))
		d.mu.Unlock()
		if v == nil {
			refuse(w, http.StatusNotFound, api.Error{Kind: api.KindNotFound,
				Message: fmt.Sprintf("there is no VM %q", r.PathValue("vm")), Hint: "`banger vm list` shows those there are"})
			return
		}
		f(w, r, v)
	}
}

func (d *Daemon) show(w http.ResponseWriter, _ *http.Request, v *api.VM) {
	d.mu.Lock()
	defer d.mu.Unlock()
	answer(w, *v)
}

// events writes the answer of a long operation.
type events struct {
	w http.ResponseWriter
}

func (e events) send(v api.Event) {
	json.NewEncoder(e.w).Encode(v)
	e.w.(http.Flusher).Flush()
}

func (e events) step(name, detail string) {
	e.send(api.Event{Step: &api.StepEvent{Operation: "op1", Name: name, Detail: detail}})
}

func (e events) fail(kind api.Kind, message, hint string) {
	e.send(api.Event{Error: &api.Error{Kind: kind, Message: message, Hint: hint}})
}

func (d *Daemon) create(w http.ResponseWriter, r *http.Request) {
	var req api.CreateRequest
	if err := json.NewDecoder(r.Body).Decode(&req); err != nil {
		refuse(w, http.StatusBadRequest, api.Error{Kind: api.KindBadRequest, Message: err.Error()})
		return
	}
	image := cmp.Or(req.Image, Image)
	if !slices.Contains([]string{Image, Wedged, Broken}, image) {
		refuse(w, http.StatusNotFound, api.Error{Kind: api.KindNotFound,
			Message: fmt.Sprintf("there is no image %q", image), Hint: "`banger image list` shows those there are"})
		return
	}
	v, taken := d.add(req, image)
	if taken {
		refuse(w, http.StatusConflict, api.Error{Kind: api.KindExists, Message: fmt.Sprintf("there is already a VM %q", req.Name),
			Hint: fmt.Sprintf("`banger vm start %s` starts it, `banger vm ssh %s` enters it", req.Name, req.Name)})
		return
	}
	e := events{w}
	e.step("disk", "")
	if req.Image == Broken {
		d.remove(v.ID)
		e.fail(api.KindHost, "cannot start the VMM: no such file", "`banger doctor` looks at what it needs")
		return
	}
	e.send(api.Event{Step: &api.StepEvent{Name: "image", Detail: "mise could not be had", Warning: true}})
	if req.Image == Wedged {
		d.set(v, api.StateRunning)
		e.fail(api.KindGuestTimeout, fmt.Sprintf("the guest of %s did not get ready in time", v.Name), "")
		return
	}
	if !req.NoStart {
		e.step("boot", "")
		d.set(v, api.StateRunning)
	}
	d.mu.Lock()
	result := *v
	d.mu.Unlock()
	e.send(api.Event{Result: &api.Result{VM: &result}})
	if req.Remove {
		<-r.Context().Done()
		d.remove(v.ID)
	}
}

func (d *Daemon) add(req api.CreateRequest, image string) (v *api.VM, taken bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if req.Name != "" && d.find(req.Name) != nil {
		return nil, true
	}
	d.made++
	v = &api.VM{ID: fmt.Sprintf("%08x", d.made), Name: cmp.Or(req.Name, fmt.Sprintf("vm-%d", d.made)), State: api.StateCreated,
		Image: image, Kernel: cmp.Or(req.Kernel, "generic-6.12"), VCPUs: cmp.Or(req.VCPUs, 2),
		MemoryMiB: cmp.Or(req.MemoryMiB, 2048), DiskMiB: cmp.Or(req.DiskMiB, 20480), DiskUsed: 3 << 20,
		Address: fmt.Sprintf("172.16.0.%d/24", d.made+1), Remove: req.Remove, Created: time.Now().Add(-90 * time.Minute)}
	d.vms = append(d.vms, v)
	return v, false
}

func (d *Daemon) set(v *api.VM, s api.State) {
	d.mu.Lock()
	defer d.mu.Unlock()
	v.State, v.Ready = s, s == api.StateRunning
}

func (d *Daemon) remove(id string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.vms = slices.DeleteFunc(d.vms, func(v *api.VM) bool { return v.ID == id })
}

func (d *Daemon) change(w http.ResponseWriter, r *http.Request, v *api.VM) {
	e := events{w}
	switch r.PathValue("deed") {
	case "start", "restart":
		d.set(v, api.StateRunning)
	case "stop":
		e.step("shutdown", "")
		d.set(v, api.StateStopped)
	case "delete":
		d.remove(v.ID)
	default:
		http.NotFound(w, r)
		return
	}
	d.mu.Lock()
	result := *v
	d.mu.Unlock()
	e.send(api.Event{Result: &api.Result{VM: &result}})
}

func (d *Daemon) prune(w http.ResponseWriter, _ *http.Request) {
	d.mu.Lock()
	pruned := []string{}
	for _, v := range d.vms {
		if v.State == api.StateStopped || v.State == api.StateFailed {
			pruned = append(pruned, v.Name)
		}
	}
	d.vms = slices.DeleteFunc(d.vms, func(v *api.VM) bool { return slices.Contains(pruned, v.Name) })
	d.mu.Unlock()
	events{w}.send(api.Event{Result: &api.Result{Pruned: pruned}})
}

func (d *Daemon) logs(w http.ResponseWriter, r *http.Request, v *api.VM) {
	lines := json.NewEncoder(w)
	lines.Encode(api.LogLine{Source: "kernel", Text: "Linux version 6.12"})
	lines.Encode(api.LogLine{Source: "console", Text: "login: \x1b[2J"})
	if r.URL.Query().Get("follow") != "" {
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	}
}

func (d *Daemon) allImages() []api.Image {
	d.mu.Lock()
	defer d.mu.Unlock()
	catalog := api.Image{Name: Image, Source: "catalog", Kernel: "generic-6.12", Size: 2 << 30, Used: 1 << 30, Local: true, Managed: true}
	return append([]api.Image{catalog}, d.images...)
}

func (d *Daemon) listImages(w http.ResponseWriter, _ *http.Request) { answer(w, d.allImages()) }

func (d *Daemon) showImage(w http.ResponseWriter, r *http.Request) {
	for _, i := range d.allImages() {
		if i.Name == r.PathValue("name") {
			answer(w, i)
			return
		}
	}
	refuse(w, http.StatusNotFound, api.Error{Kind: api.KindNotFound, Message: fmt.Sprintf("there is no image %q", r.PathValue("name"))})
}

func (d *Daemon) register(w http.ResponseWriter, r *http.Request) {
	var req api.RegisterImage
	if err := json.NewDecoder(r.Body).Decode(&req); err != nil {
		refuse(w, http.StatusBadRequest, api.Error{Kind: api.KindBadRequest, Message: err.Error()})
		return
	}
	image := api.Image{Name: req.Name, Source: "registered", Rootfs: req.Rootfs, Kernel: req.Kernel, Local: true}
	d.mu.Lock()
	d.images = append(d.images, image)
	d.mu.Unlock()
	answer(w, image)
}

func (d *Daemon) deleteImage(w http.ResponseWriter, r *http.Request) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.images = slices.DeleteFunc(d.images, func(i api.Image) bool { return i.Name == r.PathValue("name") })
	answer(w, struct{}{})
}

func (d *Daemon) doctor(w http.ResponseWriter, _ *http.Request) { answer(w, d.look()) }

// doctorFix mends what makes the host fit, and fails at the rest.
func (d *Daemon) doctorFix(w http.ResponseWriter, _ *http.Request) {
	fixed := api.DoctorFix{Done: []string{"removed a leftover"}, Doctor: d.look()}
	if d.Unfit {
		fixed.Failed = []string{"cannot switch forwarding on: read-only file system"}
	}
	answer(w, fixed)
}

func (d *Daemon) look() api.Doctor {
	findings := []api.Finding{{Check: "vmm", Level: api.LevelOK, Detail: "fcqemu, in software"}}
	if d.Unfit {
		findings = append(findings, api.Finding{Check: "qemu", Level: api.LevelError, Detail: "not found", Hint: "install qemu-system-x86"})
	}
	return api.Doctor{OK: !d.Unfit, Findings: findings}
}

// Names lists the VMs there are, for a test to look at.
func (d *Daemon) Names() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var names []string
	for _, v := range d.vms {
		names = append(names, v.Name)
	}
	return strings.Join(names, " ")
}
