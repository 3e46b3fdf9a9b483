package api

// PullImage gets an image (POST /v1/images/pull), with the kernel that it
// wants: one that a catalog has, by Name; or, with Reference or Archive, a
// container image, which is then called Name, or after its reference.
type PullImage struct {
	Name      string `json:"name,omitempty"`
	Reference string `json:"reference,omitempty"`  // like docker.io/library/alpine:3.20
	Archive   string `json:"archive,omitempty"`    // absolute path of what `docker save` wrote, or of an OCI layout in a tar file
	Kernel    string `json:"kernel_ref,omitempty"` // what it starts with unless told otherwise
	Platform  string `json:"platform,omitempty"`   // like linux/arm64; the host's without it
	PlainHTTP bool   `json:"plain_http,omitempty"` // the registry may be asked without TLS
	MaxMiB    int64  `json:"max_mib,omitempty"`    // what it may unpack to
}

// Catalog is what one catalog of images has (GET /v1/catalogs). Entries are the
// catalog's own; of a name that stands in several, the first one's is taken.
type Catalog struct {
	Source string         `json:"source"` // "embedded", a path or an address
	Images []CatalogImage `json:"images"`
	Error  string         `json:"error,omitempty"` // why it can't be read
	Hint   string         `json:"hint,omitempty"`  // what to do about that
}

// CatalogImage is one image that can be pulled.
type CatalogImage struct {
	Name   string `json:"name"`
	Type   string `json:"type"` // "debian", "bundle", "oci"
	Detail string `json:"detail,omitempty"`
	Kernel string `json:"kernel,omitempty"`
	Arch   string `json:"arch,omitempty"`
	Size   int64  `json:"size_bytes,omitempty"` // of a bundle, packed
	Local  bool   `json:"local"`
	Hidden bool   `json:"hidden,omitempty"` // an earlier catalog has the name too
}

// ExportImage writes an image as a bundle (POST /v1/images/{image}/export). One
// of File and Folder is set, an absolute path: the bundle's file, or a folder
// with a catalog that the image is added to.
type ExportImage struct {
	File   string `json:"file,omitempty"`
	Folder string `json:"folder,omitempty"`
}

// Exported is a bundle that was written, and its entry in a catalog.
type Exported struct {
	File  string       `json:"file"`
	Entry CatalogEntry `json:"entry"`
}

// CatalogEntry is a bundle's entry as it stands in a catalog's file.
type CatalogEntry struct {
	Name   string `json:"name"`
	Type   string `json:"type"`
	Detail string `json:"detail,omitempty"`
	Kernel string `json:"kernel,omitempty"`
	Arch   string `json:"arch"`
	URL    string `json:"url"`
	SHA256 string `json:"sha256"`
	Size   int64  `json:"size"`
}

// CommitVM makes an image of a VM that does not run (POST /v1/vms/{vm}/commit).
type CommitVM struct {
	Name string `json:"name"` // of the image
}

// TagImage gives an image a second name (POST /v1/images/{image}/tag).
type TagImage struct {
	Name string `json:"name"`
}

// PruneImages deletes the images that no VM uses and that can be had again, but
// the default one, and what is cached of container images and of builds (POST
// /v1/images/prune).
type PruneImages struct {
	DryRun bool `json:"dry_run,omitempty"` // only tell
}

// PrunedImages answers PruneImages.
type PrunedImages struct {
	Images   []Image `json:"images"`
	Layers   int64   `json:"layers_bytes"`   // of the cache of container images' layers
	Packages int64   `json:"packages_bytes"` // of the cache of packages that images and kernels are built of
	Freed    int64   `json:"freed_bytes"`    // of the host's disk, with the caches
}

// CheckImage asks whether a new image could be made by a name, and with a
// kernel (POST /v1/images/check). Nothing is made.
type CheckImage struct {
	Name   string `json:"name"`
	Kernel string `json:"kernel_ref,omitempty"`
}

// ReceiveImage makes an image of the container image that a command in a running
// VM writes to its standard output, in the form that `docker save` has (POST
// /v1/vms/{vm}/image).
type ReceiveImage struct {
	Name    string   `json:"name"`
	Command []string `json:"command"`
	Kernel  string   `json:"kernel_ref,omitempty"` // what it starts with unless told otherwise
	MaxMiB  int64    `json:"max_mib,omitempty"`    // what it may unpack to
}
