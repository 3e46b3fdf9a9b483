package fcserver

import "github.com/banger-vm/banger/internal/firecracker"

// machineUpdate is the body of PATCH /machine-config.
type machineUpdate struct {
	VCPUCount       *int                     `json:"vcpu_count,omitempty" width:"u8"`
	MemSizeMiB      *int                     `json:"mem_size_mib,omitempty" width:"usize"`
	SMT             *bool                    `json:"smt,omitempty"`
	CPUTemplate     *firecracker.CPUTemplate `json:"cpu_template,omitempty"`
	TrackDirtyPages *bool                    `json:"track_dirty_pages,omitempty"`
	HugePages       *firecracker.HugePages   `json:"huge_pages,omitempty"`
}

func (u machineUpdate) empty() bool { return u == machineUpdate{} }

// updateOf is PUT /machine-config as an update of everything but, like
// upstream's, a template that was not named.
func updateOf(m firecracker.MachineConfig) machineUpdate {
	if m.HugePages == "" {
		m.HugePages = firecracker.HugePagesNone
	}
	u := machineUpdate{
		VCPUCount: &m.VCPUCount, MemSizeMiB: &m.MemSizeMiB, SMT: &m.SMT,
		TrackDirtyPages: &m.TrackDirtyPages, HugePages: &m.HugePages,
	}
	if m.CPUTemplate != "" {
		u.CPUTemplate = &m.CPUTemplate
	}
	return u
}

func (u machineUpdate) apply(m firecracker.MachineConfig) firecracker.MachineConfig {
	set(&m.VCPUCount, u.VCPUCount)
	set(&m.MemSizeMiB, u.MemSizeMiB)
	set(&m.SMT, u.SMT)
	set(&m.CPUTemplate, u.CPUTemplate)
	set(&m.TrackDirtyPages, u.TrackDirtyPages)
	set(&m.HugePages, u.HugePages)
	if m.CPUTemplate == "None" {
		m.CPUTemplate = ""
	}
	return m
}

func set[T any](to, from *T) {
	if from != nil {
		*to = *from
	}
}

type snapshotType string

type memBackendType string

// snapshotCreate is the body of PUT /snapshot/create.
type snapshotCreate struct {
	SnapshotType snapshotType `json:"snapshot_type,omitempty"`
	SnapshotPath string       `json:"snapshot_path"`
	MemFilePath  string       `json:"mem_file_path"`
}

// snapshotLoad is the body of PUT /snapshot/load.
type snapshotLoad struct {
	SnapshotPath        string            `json:"snapshot_path"`
	MemFilePath         string            `json:"mem_file_path,omitempty"`
	MemBackend          *memBackend       `json:"mem_backend,omitempty"`
	EnableDiffSnapshots bool              `json:"enable_diff_snapshots,omitempty"`
	ResumeVM            bool              `json:"resume_vm,omitempty"`
	NetworkOverrides    []networkOverride `json:"network_overrides,omitempty"`
}

type memBackend struct {
	BackendPath string         `json:"backend_path"`
	BackendType memBackendType `json:"backend_type"`
}

type networkOverride struct {
	IfaceID     string `json:"iface_id"`
	HostDevName string `json:"host_dev_name"`
}

// configFile is what --config-file names. It is not closed to fields that
// nobody knows.
type configFile struct {
	Balloon           *firecracker.Balloon           `json:"balloon,omitempty"`
	Drives            []firecracker.Drive            `json:"drives"`
	BootSource        firecracker.BootSource         `json:"boot-source"`
	CPUConfig         string                         `json:"cpu-config,omitempty"`
	Logger            *firecracker.Logger            `json:"logger,omitempty"`
	MachineConfig     *firecracker.MachineConfig     `json:"machine-config,omitempty"`
	Metrics           *firecracker.Metrics           `json:"metrics,omitempty"`
	MMDSConfig        *firecracker.MMDSConfig        `json:"mmds-config,omitempty"`
	NetworkInterfaces []firecracker.NetworkInterface `json:"network-interfaces,omitempty"`
	Vsock             *firecracker.Vsock             `json:"vsock,omitempty"`
	Entropy           *firecracker.Entropy           `json:"entropy,omitempty"`
}
