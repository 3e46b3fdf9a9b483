package api

// Workspace is a directory of the host that went into a VM. A client tells it
// (POST /v1/vms/{vm}/workspaces) before the guest puts it to its place: from
// then on the VM may hold work.
type Workspace struct {
	Guest string `json:"guest_path"`
	Host  string `json:"host_path"`
}

// UpgradeWorkspace is the protocol of a connection to the workspaces of a VM's
// guest (POST /v1/vms/{vm}/workspace).
const UpgradeWorkspace = "banger-workspace/1"

// DeleteRequest deletes a VM (POST /v1/vms/{vm}/delete). One that has
// workspaces is only deleted with Force: they may hold work that is nowhere
// else.
type DeleteRequest struct {
	Force bool `json:"force,omitempty"`
}
