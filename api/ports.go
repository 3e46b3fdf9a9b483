package api

// Port leads from a port of the host's loopback, IPv4 and IPv6, to a port in a
// guest. It is kept with the VM, and listened on while the VM runs.
type Port struct {
	Host  int `json:"host"` // 0 in a request: any that is free
	Guest int `json:"guest"`
	// Listening and Error tell of now; a request leaves them out.
	Listening bool   `json:"listening,omitempty"`
	Error     string `json:"error,omitempty"` // why it is not listened on, though the VM runs
}
