// Package firecracker drives one Firecracker process: it starts it
// ([Start]), finds it again after a restart of the daemon ([Adopt]), speaks
// its HTTP API over a unix socket ([Client]) and reaches the guest through
// its vsock socket ([DialVsock]).
//
// Any program that takes Firecracker's flags and serves its API will do:
// the package does not know which one runs.
//
// The request bodies below are the API's own. Their source is the official
// description, testdata/firecracker.yaml, and for what that leaves out the
// source of the named release. Struct tags carry the rules:
//
//   - json: a name without omitempty is a required field;
//   - since:"1.14": the first release that knows the field. Asking an older
//     one for it is a [*TooOldError];
//   - since:"1.14,droppable": the same, but a wish only: an older release is
//     simply not told;
//   - width:"u8": an int whose width in the API is another.
package firecracker

// MachineConfig is the body of PUT /machine-config.
type MachineConfig struct {
	// VCPUCount is 1 to 32; with SMT it is 1 or even.
	VCPUCount int `json:"vcpu_count" width:"u8"`
	// MemSizeMiB is the guest's memory in MiB.
	MemSizeMiB int `json:"mem_size_mib" width:"usize"`
	// SMT shows the vCPUs to the guest as hyperthreads (x86-64 only).
	SMT bool `json:"smt,omitempty"`
	// CPUTemplate names a static template; upstream deprecates them.
	CPUTemplate CPUTemplate `json:"cpu_template,omitempty"`
	// TrackDirtyPages is for incremental snapshots.
	TrackDirtyPages bool `json:"track_dirty_pages,omitempty"`
	// HugePages is the page size behind guest memory; empty is "None".
	HugePages HugePages `json:"huge_pages,omitempty" since:"1.7"`
}

// CPUTemplate is a static CPU template: C3, T2, T2S, T2CL, T2A, V1N1, None.
type CPUTemplate string

// HugePages is "None", "2M", or, since 1.17, "Transparent".
type HugePages string

// The page sizes behind guest memory.
const (
	HugePagesNone HugePages = "None"
	HugePages2M   HugePages = "2M"
)

// BootSource is the body of PUT /boot-source. The files are opened when the
// request is served.
type BootSource struct {
	KernelImagePath string `json:"kernel_image_path"`
	InitrdPath      string `json:"initrd_path,omitempty"`
	// BootArgs replaces Firecracker's default command line; nil keeps it.
	BootArgs *string `json:"boot_args,omitempty"`
}

// CacheType says what a guest's flush does: nothing, or a sync of the file.
type CacheType string

// The two cache types; the API's default is Unsafe.
const (
	CacheUnsafe    CacheType = "Unsafe"
	CacheWriteback CacheType = "Writeback"
)

// IOEngine is how a drive's file is read and written: Sync or Async.
type IOEngine string

// The two engines; Async is a developer preview.
const (
	EngineSync  IOEngine = "Sync"
	EngineAsync IOEngine = "Async"
)

// Drive is the body of PUT /drives/{drive_id}. Drives appear in the guest in
// the order of their first PUT, a root device always first.
type Drive struct {
	DriveID      string       `json:"drive_id"`
	PartUUID     string       `json:"partuuid,omitempty"`
	IsRootDevice bool         `json:"is_root_device"`
	CacheType    CacheType    `json:"cache_type,omitempty"`
	IsReadOnly   *bool        `json:"is_read_only,omitempty"`
	PathOnHost   string       `json:"path_on_host,omitempty"`
	RateLimiter  *RateLimiter `json:"rate_limiter,omitempty"`
	IOEngine     IOEngine     `json:"io_engine,omitempty"`
	// Socket is a vhost-user back end's, instead of PathOnHost (preview).
	Socket string `json:"socket,omitempty"`
}

// DriveUpdate is the body of PATCH /drives/{drive_id}.
type DriveUpdate struct {
	DriveID     string       `json:"drive_id"`
	PathOnHost  string       `json:"path_on_host,omitempty"`
	RateLimiter *RateLimiter `json:"rate_limiter,omitempty"`
}

// RateLimiter limits bytes and operations, each by a token bucket.
type RateLimiter struct {
	Bandwidth *TokenBucket `json:"bandwidth,omitempty"`
	Ops       *TokenBucket `json:"ops,omitempty"`
}

// TokenBucket holds Size tokens, refilled over RefillTime milliseconds.
type TokenBucket struct {
	Size         uint64  `json:"size"`
	OneTimeBurst *uint64 `json:"one_time_burst,omitempty"`
	RefillTime   uint64  `json:"refill_time"`
}

// NetworkInterface is the body of PUT /network-interfaces/{iface_id}.
type NetworkInterface struct {
	IfaceID string `json:"iface_id"`
	// HostDevName is the name of a tap in the VMM's network namespace.
	HostDevName   string       `json:"host_dev_name"`
	GuestMAC      string       `json:"guest_mac,omitempty"`
	RxRateLimiter *RateLimiter `json:"rx_rate_limiter,omitempty"`
	TxRateLimiter *RateLimiter `json:"tx_rate_limiter,omitempty"`
	// MTU is told to the guest; 68 to 65535.
	MTU int `json:"mtu,omitempty" since:"1.16"`
}

// NetworkInterfaceUpdate is the body of PATCH /network-interfaces/{iface_id}.
type NetworkInterfaceUpdate struct {
	IfaceID       string       `json:"iface_id"`
	RxRateLimiter *RateLimiter `json:"rx_rate_limiter,omitempty"`
	TxRateLimiter *RateLimiter `json:"tx_rate_limiter,omitempty"`
}

// Vsock is the body of PUT /vsock. The unix socket is bound when the request
// is served, and never removed.
type Vsock struct {
	VsockID string `json:"vsock_id,omitempty"`
	// GuestCID is 3 or more. It need not be unique among VMs.
	GuestCID uint32 `json:"guest_cid"`
	UDSPath  string `json:"uds_path"`
}

// Entropy is the body of PUT /entropy.
type Entropy struct {
	RateLimiter *RateLimiter `json:"rate_limiter,omitempty"`
}

// Balloon is the body of PUT /balloon.
type Balloon struct {
	AmountMiB             uint32 `json:"amount_mib"`
	DeflateOnOOM          bool   `json:"deflate_on_oom"`
	StatsPollingIntervalS uint16 `json:"stats_polling_interval_s,omitempty"`
	FreePageHinting       bool   `json:"free_page_hinting,omitempty" since:"1.14,droppable"`
	FreePageReporting     bool   `json:"free_page_reporting,omitempty" since:"1.14,droppable"`
}

// BalloonUpdate is the body of PATCH /balloon.
type BalloonUpdate struct {
	AmountMiB uint32 `json:"amount_mib"`
}

// BalloonStatsUpdate is the body of PATCH /balloon/statistics.
type BalloonStatsUpdate struct {
	StatsPollingIntervalS uint16 `json:"stats_polling_interval_s"`
}

// BalloonStats is the answer of GET /balloon/statistics. The guest's own
// numbers, in bytes, are nil where its driver does not tell them.
type BalloonStats struct {
	TargetPages        uint32  `json:"target_pages"`
	ActualPages        uint32  `json:"actual_pages"`
	TargetMiB          uint32  `json:"target_mib"`
	ActualMiB          uint32  `json:"actual_mib"`
	SwapIn             *uint64 `json:"swap_in,omitempty"`
	SwapOut            *uint64 `json:"swap_out,omitempty"`
	MajorFaults        *uint64 `json:"major_faults,omitempty"`
	MinorFaults        *uint64 `json:"minor_faults,omitempty"`
	FreeMemory         *uint64 `json:"free_memory,omitempty"`
	TotalMemory        *uint64 `json:"total_memory,omitempty"`
	AvailableMemory    *uint64 `json:"available_memory,omitempty"`
	DiskCaches         *uint64 `json:"disk_caches,omitempty"`
	HugetlbAllocations *uint64 `json:"hugetlb_allocations,omitempty"`
	HugetlbFailures    *uint64 `json:"hugetlb_failures,omitempty"`
	OOMKill            *uint64 `json:"oom_kill,omitempty"`
	AllocStall         *uint64 `json:"alloc_stall,omitempty"`
	AsyncScan          *uint64 `json:"async_scan,omitempty"`
	DirectScan         *uint64 `json:"direct_scan,omitempty"`
	AsyncReclaim       *uint64 `json:"async_reclaim,omitempty"`
	DirectReclaim      *uint64 `json:"direct_reclaim,omitempty"`
}

// Logger is the body of PUT /logger.
type Logger struct {
	LogPath       string   `json:"log_path,omitempty"`
	Level         LogLevel `json:"level,omitempty"`
	ShowLevel     *bool    `json:"show_level,omitempty"`
	ShowLogOrigin *bool    `json:"show_log_origin,omitempty"`
	Module        string   `json:"module,omitempty" since:"1.7"`
}

// LogLevel is Off, Error, Warning, Info, Debug or Trace, in any of upstream's
// spellings.
type LogLevel string

// Metrics is the body of PUT /metrics.
type Metrics struct {
	MetricsPath string `json:"metrics_path"`
}

// MMDSConfig is the body of PUT /mmds/config.
type MMDSConfig struct {
	Version           MMDSVersion `json:"version,omitempty"`
	NetworkInterfaces []string    `json:"network_interfaces"`
	IPv4Address       string      `json:"ipv4_address,omitempty"`
	IMDSCompat        bool        `json:"imds_compat,omitempty" since:"1.13"`
}

// MMDSVersion is V1 or V2.
type MMDSVersion string

// Action is the body of PUT /actions.
type Action struct {
	ActionType ActionType `json:"action_type"`
}

// ActionType names an action.
type ActionType string

// The actions of PUT /actions.
const (
	ActionFlushMetrics   ActionType = "FlushMetrics"
	ActionInstanceStart  ActionType = "InstanceStart"
	ActionSendCtrlAltDel ActionType = "SendCtrlAltDel"
)

// VM is the body of PATCH /vm.
type VM struct {
	State VMState `json:"state"`
}

// VMState is the state asked for by PATCH /vm.
type VMState string

// The two states that PATCH /vm takes.
const (
	Paused  VMState = "Paused"
	Resumed VMState = "Resumed"
)

// InstanceInfo is the answer of GET /.
type InstanceInfo struct {
	ID         string        `json:"id"`
	State      InstanceState `json:"state"`
	VMMVersion string        `json:"vmm_version"`
	AppName    string        `json:"app_name"`
}

// InstanceState is what GET / says of the machine.
type InstanceState string

// The states of a machine.
const (
	StateNotStarted InstanceState = "Not started"
	StateRunning    InstanceState = "Running"
	StatePaused     InstanceState = "Paused"
)

// VMConfig is the answer of GET /vm/config, and the content of --config-file.
type VMConfig struct {
	Balloon           *Balloon           `json:"balloon"`
	Drives            []Drive            `json:"drives"`
	BootSource        BootSource         `json:"boot-source"`
	Logger            *Logger            `json:"logger"`
	MachineConfig     *MachineConfig     `json:"machine-config"`
	Metrics           *Metrics           `json:"metrics"`
	MMDSConfig        *MMDSConfig        `json:"mmds-config"`
	NetworkInterfaces []NetworkInterface `json:"network-interfaces"`
	Vsock             *Vsock             `json:"vsock"`
	Entropy           *Entropy           `json:"entropy"`
}
