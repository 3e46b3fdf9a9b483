package api

// Workspace is a directory of the host that went into a VM.
type Workspace struct {
	Guest string `json:"guest_path"`
	Host  string `json:"host_path"`
}

// WorkspaceRequest connects to the workspaces of a VM's guest
// (POST /v1/vms/{vm}/workspace, upgraded to [UpgradeWorkspace]). Put names the
// one that is about to go in.
type WorkspaceRequest struct {
	Put *Workspace `json:"put,omitempty"`
}

// UpgradeWorkspace is the protocol of a workspace's connection.
const UpgradeWorkspace = "banger-workspace/1"

// DeleteRequest deletes a VM (POST /v1/vms/{vm}/delete). One that has
// workspaces is only deleted with Force: they may hold work that is nowhere
// else.
type DeleteRequest struct {
	Force bool `json:"force,omitempty"`
}
