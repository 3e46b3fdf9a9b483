package fcserver

import (
	"github.com/banger-vm/banger/internal/firecracker"
)

// The answers of GET /vm/config and GET /machine-config, in upstream's order
// and with its nulls.

type configView struct {
	Balloon       *balloonView  `json:"balloon"`
	Drives        []driveView   `json:"drives"`
	BootSource    bootView      `json:"boot-source"`
	CPUConfig     *string       `json:"cpu-config"`
	Logger        *struct{}     `json:"logger"`
	MachineConfig machineView   `json:"machine-config"`
	Metrics       *struct{}     `json:"metrics"`
	MMDSConfig    *mmdsView     `json:"mmds-config"`
	Networks      []networkView `json:"network-interfaces"`
	Vsock         *vsockView    `json:"vsock"`
	Entropy       *entropyView  `json:"entropy"`
}

type balloonView struct {
	AmountMiB             uint32 `json:"amount_mib"`
	DeflateOnOOM          bool   `json:"deflate_on_oom"`
	StatsPollingIntervalS uint16 `json:"stats_polling_interval_s"`
}

type driveView struct {
	DriveID      string                `json:"drive_id"`
	PartUUID     *string               `json:"partuuid"`
	IsRootDevice bool                  `json:"is_root_device"`
	CacheType    firecracker.CacheType `json:"cache_type"`
	IsReadOnly   bool                  `json:"is_read_only"`
	PathOnHost   string                `json:"path_on_host"`
	RateLimiter  *limiterView          `json:"rate_limiter"`
	IOEngine     firecracker.IOEngine  `json:"io_engine"`
	Socket       *string               `json:"socket"`
}

type limiterView struct {
	Bandwidth *bucketView `json:"bandwidth"`
	Ops       *bucketView `json:"ops"`
}

type bucketView struct {
	Size         uint64  `json:"size"`
	OneTimeBurst *uint64 `json:"one_time_burst"`
	RefillTime   uint64  `json:"refill_time"`
}

type bootView struct {
	KernelImagePath string  `json:"kernel_image_path"`
	InitrdPath      *string `json:"initrd_path"`
	BootArgs        *string `json:"boot_args"`
}

type machineView struct {
	VCPUCount       int                     `json:"vcpu_count"`
	MemSizeMiB      int                     `json:"mem_size_mib"`
	SMT             bool                    `json:"smt"`
	CPUTemplate     firecracker.CPUTemplate `json:"cpu_template,omitempty"`
	TrackDirtyPages bool                    `json:"track_dirty_pages"`
	HugePages       firecracker.HugePages   `json:"huge_pages"`
}

type mmdsView struct {
	Version           firecracker.MMDSVersion `json:"version"`
	NetworkInterfaces []string                `json:"network_interfaces"`
	IPv4Address       string                  `json:"ipv4_address"`
}

type networkView struct {
	IfaceID       string       `json:"iface_id"`
	HostDevName   string       `json:"host_dev_name"`
	GuestMAC      *string      `json:"guest_mac"`
	RxRateLimiter *limiterView `json:"rx_rate_limiter"`
	TxRateLimiter *limiterView `json:"tx_rate_limiter"`
}

type vsockView struct {
	GuestCID uint32 `json:"guest_cid"`
	UDSPath  string `json:"uds_path"`
}

type entropyView struct {
	RateLimiter *limiterView `json:"rate_limiter"`
}

func viewOf(c Config, boot firecracker.BootSource) configView {
	v := configView{
		Drives:        []driveView{},
		BootSource:    bootView{boot.KernelImagePath, orNull(boot.InitrdPath), boot.BootArgs},
		MachineConfig: machineViewOf(c.Machine),
		Networks:      []networkView{},
	}
	for _, d := range c.Drives {
		v.Drives = append(v.Drives, driveView{
			DriveID: d.ID, PartUUID: orNull(d.PartUUID), IsRootDevice: d.Root, CacheType: d.Cache,
			IsReadOnly: d.ReadOnly, PathOnHost: d.File.Path, RateLimiter: limiterViewOf(d.RateLimiter), IOEngine: d.Engine,
		})
	}
	for _, n := range c.Networks {
		v.Networks = append(v.Networks, networkView{
			n.IfaceID, n.HostDevName, orNull(n.GuestMAC), limiterViewOf(n.RxRateLimiter), limiterViewOf(n.TxRateLimiter),
		})
	}
	if c.Balloon != nil {
		v.Balloon = new(balloonViewOf(*c.Balloon))
	}
	if c.MMDS != nil {
		v.MMDSConfig = &mmdsView{c.MMDS.Version, c.MMDS.NetworkInterfaces, c.MMDS.IPv4Address}
	}
	if c.Vsock != nil {
		v.Vsock = &vsockView{c.Vsock.GuestCID, c.Vsock.UDSPath}
	}
	if c.Entropy != nil {
		v.Entropy = &entropyView{limiterViewOf(c.Entropy.RateLimiter)}
	}
	return v
}

func balloonViewOf(b firecracker.Balloon) balloonView {
	return balloonView{b.AmountMiB, b.DeflateOnOOM, b.StatsPollingIntervalS}
}

func machineViewOf(m firecracker.MachineConfig) machineView {
	return machineView{m.VCPUCount, m.MemSizeMiB, m.SMT, m.CPUTemplate, m.TrackDirtyPages, m.HugePages}
}

// limiterViewOf shows a limiter as it works: a bucket without size or refill
// time limits nothing and is not there.
func limiterViewOf(r *firecracker.RateLimiter) *limiterView {
	if r == nil {
		return nil
	}
	v := limiterView{bucketViewOf(r.Bandwidth), bucketViewOf(r.Ops)}
	if v == (limiterView{}) {
		return nil
	}
	return &v
}

func bucketViewOf(b *firecracker.TokenBucket) *bucketView {
	if b == nil || b.Size == 0 || b.RefillTime == 0 {
		return nil
	}
	v := bucketView{b.Size, b.OneTimeBurst, b.RefillTime}
	if v.OneTimeBurst != nil && *v.OneTimeBurst == 0 {
		v.OneTimeBurst = nil
	}
	return &v
}

func orNull(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}
