package api

// FilesRequest copies files into or out of a VM (POST /v1/vms/{vm}/files,
// upgraded to [UpgradeFiles]). Exactly one of Into and From is set: a path in
// the guest, below root's home unless it is absolute.
type FilesRequest struct {
	Into string `json:"into,omitempty"` // a directory that is there, or the copy's own place
	Name string `json:"name,omitempty"` // beside Into: the copy's name in a directory
	From string `json:"from,omitempty"`
}

// Copied is what a copy moved.
type Copied struct {
	Files   int64     `json:"files"` // files and links
	Bytes   int64     `json:"bytes"` // that travelled; a sparse file has holes, which don't
	Skipped []Refused `json:"skipped,omitempty"`
	// MoreSkipped counts those that are not in Skipped.
	MoreSkipped int64 `json:"more_skipped,omitempty"`
}
