package api

// ExecRequest runs a program in a VM (POST /v1/vms/{vm}/exec, upgraded to
// [UpgradeExec]). After the 101 the connection carries the frames of the guest
// link in both directions.
type ExecRequest struct {
	Argv []string          `json:"argv,omitempty"` // none: what the image names
	Env  map[string]string `json:"env,omitempty"`  // over the guest's own
	Cwd  string            `json:"cwd,omitempty"`  // "" is the home directory
	TTY  bool              `json:"tty,omitempty"`  // one terminal instead of three pipes
	Rows uint16            `json:"rows,omitempty"`
	Cols uint16            `json:"cols,omitempty"`
	Wait Wait              `json:"wait,omitempty"` // how far the guest must have come first
}

// The protocols that a connection is upgraded to.
const (
	UpgradeExec = "banger-exec/1"
	UpgradeSSH  = "banger-ssh/1"
	// UpgradeFiles carries a tree of files, as package filetree describes it.
	UpgradeFiles = "banger-files/1"
)
