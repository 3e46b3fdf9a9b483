package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/banger-vm/banger/api"
)

// maxBody bounds a request's JSON.
const maxBody = 1 << 20

// handle is a handler that may fail before it has answered.
type handle func(d *Daemon, w http.ResponseWriter, r *http.Request) error

// routes is every call there is. All of them are for the socket's owner alone.
var routes = []struct {
	pattern string
	handle  handle
}{
	{"GET /v1/status", (*Daemon).getStatus},
	{"GET /v1/doctor", (*Daemon).getDoctor},
	{"POST /v1/doctor/fix", (*Daemon).postDoctorFix},
	{"POST /v1/shutdown", (*Daemon).postShutdown},

	{"GET /v1/vms", (*Daemon).getVMs},
	{"POST /v1/vms", (*Daemon).postVMs},
	{"GET /v1/vms/{vm}", (*Daemon).getVM},
	{"POST /v1/vms/{vm}/start", (*Daemon).postStart},
	{"POST /v1/vms/{vm}/stop", (*Daemon).postStop},
	{"POST /v1/vms/{vm}/restart", (*Daemon).postRestart},
	{"POST /v1/vms/{vm}/delete", (*Daemon).postDelete},
	{"POST /v1/vms/{vm}/exec", (*Daemon).postExec},
	{"POST /v1/vms/{vm}/workspace", (*Daemon).postWorkspace},
	{"POST /v1/vms/{vm}/workspaces", (*Daemon).postWorkspaces},
	{"GET /v1/vms/{vm}/ssh", (*Daemon).getSSH},
	{"POST /v1/vms/{vm}/ssh", (*Daemon).postSSH},
	{"GET /v1/vms/{vm}/logs", (*Daemon).getLogs},
	{"GET /v1/vms/{vm}/ports", (*Daemon).getPorts},
	{"POST /v1/vms/{vm}/ports", (*Daemon).postPorts},
	{"DELETE /v1/vms/{vm}/ports/{port}", (*Daemon).deletePort},
	{"POST /v1/vms/{vm}/files", (*Daemon).postFiles},
	{"POST /v1/vms/{vm}/credentials", (*Daemon).postCredentials},
	{"POST /v1/prune", (*Daemon).postPrune},

	{"GET /v1/vms/{vm}/sessions", (*Daemon).getSessions},
	{"POST /v1/vms/{vm}/sessions", (*Daemon).postSessions},
	{"GET /v1/vms/{vm}/sessions/{session}", (*Daemon).getSession},
	{"DELETE /v1/vms/{vm}/sessions/{session}", (*Daemon).deleteSession},
	{"POST /v1/vms/{vm}/sessions/{session}/attach", (*Daemon).postSessionAttach},
	{"POST /v1/vms/{vm}/sessions/{session}/send", (*Daemon).postSessionSend},
	{"POST /v1/vms/{vm}/sessions/{session}/stop", (*Daemon).postSessionStop},
	{"POST /v1/vms/{vm}/sessions/{session}/signal", (*Daemon).postSessionSignal},
	{"POST /v1/vms/{vm}/sessions/{session}/wait", (*Daemon).postSessionWait},

	{"GET /v1/images", (*Daemon).getImages},
	{"POST /v1/images", (*Daemon).postImages},
	{"POST /v1/images/pull", (*Daemon).postPull},
	{"GET /v1/images/{image}", (*Daemon).getImage},
	{"POST /v1/images/{image}/export", (*Daemon).postExport},
	{"POST /v1/images/{image}/tag", (*Daemon).postTag},
	{"POST /v1/images/prune", (*Daemon).postImagesPrune},
	{"POST /v1/images/check", (*Daemon).postImagesCheck},
	{"POST /v1/vms/{vm}/commit", (*Daemon).postCommit},
	{"POST /v1/vms/{vm}/image", (*Daemon).postVMImage},
	{"DELETE /v1/images/{image}", (*Daemon).deleteImage},
	{"GET /v1/catalogs", (*Daemon).getCatalogs},
	{"GET /v1/kernels", (*Daemon).getKernels},
	{"POST /v1/kernels/pull", (*Daemon).postKernelPull},
	{"POST /v1/kernels/import", (*Daemon).postKernelImport},
	{"GET /v1/kernels/{kernel}", (*Daemon).getKernel},
	{"DELETE /v1/kernels/{kernel}", (*Daemon).deleteKernel},
}

// handler is the route table behind the checks that every call passes.
func (d *Daemon) handler() http.Handler {
	mux := http.NewServeMux()
	for _, route := range routes {
		mux.HandleFunc(route.pattern, func(w http.ResponseWriter, r *http.Request) {
			answer := &answered{ResponseWriter: w}
			w = answer
			defer d.survive(answer, r)
			if err := route.handle(d, w, r); err != nil {
				d.refuse(w, r, err)
			}
		})
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		d.refuse(w, r, &api.Error{Kind: api.KindNotFound, Message: fmt.Sprintf("bangerd has no %s %s", r.Method, r.URL.Path)})
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set(api.VersionHeader, api.Version)
		if err := checkPeer(r.Context()); err != nil {
			d.refuse(w, r, err)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// read decodes a request's body into v. An empty one leaves v as it is; a
// field that this version does not know is refused.
func read(w http.ResponseWriter, r *http.Request, v any) error {
	dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil && !errors.Is(err, io.EOF) {
		return &api.Error{Kind: api.KindBadRequest, Message: fmt.Sprintf("cannot read the request: %v", err)}
	}
	return nil
}

func answer(w http.ResponseWriter, v any) error {
	w.Header().Set("Content-Type", "application/json")
	return json.NewEncoder(w).Encode(v)
}
