package api

// PullKernel gets the newest version of a kernel of the catalog
// (POST /v1/kernels/pull).
type PullKernel struct {
	Name string `json:"name"`
}

// ImportKernel takes a kernel that is on the host into the store
// (POST /v1/kernels/import). The paths are absolute.
type ImportKernel struct {
	Name    string `json:"name"`
	Vmlinux string `json:"vmlinux"`           // an ELF file or a bzImage
	Modules string `json:"modules,omitempty"` // the directory of its modules
	Initrd  string `json:"initrd,omitempty"`  // an initrd with modules in it
}
