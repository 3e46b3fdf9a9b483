package fctest

import "strings"

// rule is one rule of the API: its name is what fails. Before is true for
// all: each rule has a VMM of its own that was not started.
type rule struct {
	name  string
	steps []step
	// since and until bound the releases that have the rule; until is the
	// first without it.
	since, until string
	// lacked names what a VMM may refuse instead, by that name; lackedBy is
	// the request that it then refuses.
	lacked   string
	lackedBy step
}

var rules = []rule{
	{name: "GET / tells who it is", steps: []step{
		get("/", `"id":"conformance-1"`), get("/", `"state":"Not started"`), get("/", `"vmm_version":"`), get("/", `"app_name":"`),
	}},
	{name: "GET /version tells the release", steps: []step{get("/version", `{"firecracker_version":"`)}},
	{name: "the machine has defaults", steps: []step{
		get("/machine-config", `{"vcpu_count":1,"mem_size_mib":128,"smt":false,"track_dirty_pages":false,"huge_pages":"None"}`),
	}},
	{name: "the whole configuration shows what is unset", steps: []step{
		get("/vm/config", `"drives":[]`), get("/vm/config", `"vsock":null`), get("/vm/config", `"boot-source":{"kernel_image_path":""`),
	}},
	{name: "unknown paths are refused by name", steps: []step{
		refused("GET", "/nope", "", "Invalid request method and/or path: GET nope."),
		refused("PUT", "/vm", `{"state":"Paused"}`, "Invalid request method and/or path: PUT vm."),
		refused("GET", "/vm", "", "Invalid request method and/or path: GET vm."),
		refused("GET", "/drives", "", "Invalid request method and/or path: GET drives."),
		refused("PATCH", "/vsock", "{}", "Invalid request method and/or path: PATCH vsock."),
		refused("GET", "/version?x=1", "", "Invalid request method and/or path: GET version?x=1."),
	}},
	{name: "GET has no body, PUT and PATCH have one", steps: []step{
		refused("GET", "/", "{}", "GET request cannot have a body."),
		refused("PUT", "/actions", "", "Empty PUT request."),
		refused("PATCH", "/vm", "", "Empty PATCH request."),
	}},
	{name: "a trailing slash is nothing", steps: []step{get("/version/", "firecracker_version")}},

	{name: "unknown fields are refused by name", steps: []step{
		refused("PUT", "/machine-config", `{"vcpu_count":1,"mem_size_mib":128,"foo":1}`, "unknown field `foo`, expected one of `vcpu_count`, `mem_size_mib`"),
		refused("PUT", "/boot-source", `{"kernel_image_path":"kernel","foo":1}`, "unknown field `foo`"),
		refused("PUT", "/drives/a", `{"drive_id":"a","is_root_device":false,"foo":1}`, "unknown field `foo`, expected one of `drive_id`, `partuuid`"),
		refused("PUT", "/drives/a", `{"drive_id":"a","is_root_device":false,"path_on_host":"disk1","rate_limiter":{"foo":1}}`, "unknown field `foo`, expected `bandwidth` or `ops`"),
		refused("PUT", "/network-interfaces/a", `{"iface_id":"a","host_dev_name":"x","foo":1}`, "unknown field `foo`"),
		refused("PUT", "/vsock", `{"guest_cid":3,"uds_path":"v.sock","foo":1}`, "unknown field `foo`"),
		refused("PUT", "/entropy", `{"foo":1}`, "unknown field `foo`"),
		refused("PUT", "/balloon", `{"amount_mib":1,"deflate_on_oom":true,"foo":1}`, "unknown field `foo`"),
		refused("PUT", "/actions", `{"action_type":"InstanceStart","foo":1}`, "unknown field `foo`, expected `action_type`"),
		refused("PATCH", "/vm", `{"state":"Paused","foo":1}`, "unknown field `foo`, expected `state`"),
		refused("PUT", "/logger", `{"foo":1}`, "unknown field `foo`"),
		refused("PATCH", "/machine-config", `{"foo":1}`, "unknown field `foo`"),
		refused("PUT", "/mmds/config", `{"network_interfaces":[],"foo":1}`, "unknown field `foo`"),
	}},
	{name: "fields of later releases are unknown: mtu", until: "1.16", steps: []step{
		refused("PUT", "/network-interfaces/a", `{"iface_id":"a","host_dev_name":"x","mtu":1500}`, "unknown field `mtu`"),
	}},
	{name: "fields of later releases are unknown: free_page_reporting", until: "1.14", steps: []step{
		refused("PUT", "/balloon", `{"amount_mib":1,"deflate_on_oom":true,"free_page_reporting":true}`, "unknown field `free_page_reporting`"),
	}},
	{name: "fields of later releases are unknown: imds_compat", until: "1.13", steps: []step{
		refused("PUT", "/mmds/config", `{"network_interfaces":[],"imds_compat":true}`, "unknown field `imds_compat`"),
	}},
	{name: "requests of later releases are unknown", until: "1.14", steps: []step{
		refused("PUT", "/serial", `{}`, "Invalid request method and/or path: PUT serial."),
		refused("PUT", "/pmem/a", `{}`, "Invalid request method and/or path: PUT pmem."),
		refused("PUT", "/hotplug/memory", `{}`, "Invalid request method and/or path: PUT hotplug."),
	}},
	{name: "missing fields are refused by name", steps: []step{
		refused("PUT", "/machine-config", `{"vcpu_count":1}`, "missing field `mem_size_mib`"),
		refused("PUT", "/machine-config", `{"mem_size_mib":1}`, "missing field `vcpu_count`"),
		refused("PUT", "/boot-source", `{}`, "missing field `kernel_image_path`"),
		refused("PUT", "/drives/a", `{"drive_id":"a"}`, "missing field `is_root_device`"),
		refused("PUT", "/network-interfaces/a", `{"iface_id":"a"}`, "missing field `host_dev_name`"),
		refused("PUT", "/vsock", `{"guest_cid":3}`, "missing field `uds_path`"),
		refused("PUT", "/balloon", `{"amount_mib":1}`, "missing field `deflate_on_oom`"),
		refused("PUT", "/metrics", `{}`, "missing field `metrics_path`"),
	}},
	{name: "repeated fields are refused", steps: []step{
		refused("PUT", "/machine-config", `{"vcpu_count":1,"vcpu_count":2,"mem_size_mib":128}`, "duplicate field `vcpu_count`"),
	}},
	{name: "wrong types are refused", steps: []step{
		refused("PUT", "/machine-config", `{"vcpu_count":"1","mem_size_mib":128}`, `invalid type: string "1", expected u8 at line 1 column 17.`),
		refused("PUT", "/machine-config", `{"vcpu_count":256,"mem_size_mib":128}`, "invalid value: integer `256`, expected u8 at line 1 column 17."),
		refused("PUT", "/machine-config", `{"vcpu_count":-1,"mem_size_mib":128}`, "invalid value: integer `-1`, expected u8"),
		refused("PUT", "/machine-config", `{"vcpu_count":1.5,"mem_size_mib":128}`, "invalid type: floating point `1.5`, expected u8"),
		refused("PUT", "/machine-config", `{"vcpu_count":1,"mem_size_mib":128,"smt":null}`, "invalid type: null, expected a boolean"),
		refused("PUT", "/drives/a", `{"drive_id":1,"is_root_device":false}`, "invalid type: integer `1`, expected a string"),
		refused("PUT", "/drives/a", `{"drive_id":"a","is_root_device":0}`, "invalid type: integer `0`, expected a boolean"),
		refused("PUT", "/vsock", `{"guest_cid":4294967296,"uds_path":"v"}`, "invalid value: integer `4294967296`, expected u32"),
		refused("PUT", "/machine-config", `1`, "invalid type: integer `1`, expected struct MachineConfig"),
		refused("PUT", "/machine-config", `null`, "invalid type: null, expected struct MachineConfig"),
	}},
	{name: "null is an absent optional field", steps: []step{
		ok("PUT", "/boot-source", `{"kernel_image_path":"kernel","initrd_path":null,"boot_args":null}`),
		ok("PUT", "/drives/a", `{"drive_id":"a","is_root_device":false,"path_on_host":"disk1","rate_limiter":null,"io_engine":null,"is_read_only":null}`),
		ok("PUT", "/entropy", `{"rate_limiter":null}`),
	}},
	{name: "unknown values are refused", steps: []step{
		refused("PUT", "/actions", `{"action_type":"Foo"}`, "unknown variant `Foo`, expected one of `FlushMetrics`, `InstanceStart`, `SendCtrlAltDel`"),
		refused("PATCH", "/vm", `{"state":"Foo"}`, "unknown variant `Foo`, expected `Paused` or `Resumed`"),
		refused("PUT", "/drives/a", `{"drive_id":"a","is_root_device":false,"cache_type":"Foo"}`, "unknown variant `Foo`, expected `Unsafe` or `Writeback`"),
		refused("PUT", "/logger", `{"level":"Foo"}`, "Invalid LevelFilter"),
		refused("PUT", "/network-interfaces/a", `{"iface_id":"a","host_dev_name":"x","guest_mac":"zz"}`, "The provided MAC address is invalid."),
	}},
	{name: "a body is one JSON value", steps: []step{
		refused("PUT", "/machine-config", `{`, "EOF while parsing an object"),
		refused("PUT", "/machine-config", `{"vcpu_count":1,"mem_size_mib":128} x`, "trailing characters"),
		refused("PUT", "/actions", `{"action_type":1}`, "expected value"),
	}},
	{name: "resource ids are letters, digits and underscores", steps: []step{
		refused("PUT", "/drives/a-b", `{}`, "API Resource IDs can only contain alphanumeric characters and underscores."),
		refused("PUT", "/network-interfaces/a.b", `{}`, "API Resource IDs can only contain"),
		refused("PUT", "/drives", `{}`, "The ID cannot be empty."),
		refused("PATCH", "/drives/", `{}`, "The ID cannot be empty."),
		ok("PUT", "/drives/A_1", `{"drive_id":"A_1","is_root_device":false,"path_on_host":"disk1"}`),
	}},
	{name: "the id in the body is the one in the path", steps: []step{
		refused("PUT", "/drives/a", `{"drive_id":"b","is_root_device":false,"path_on_host":"disk1"}`, "The id from the path does not match the id from the body!"),
		refused("PUT", "/network-interfaces/a", `{"iface_id":"b","host_dev_name":"x"}`, "The id from the path [a] does not match the id from the body [b]!"),
	}},

	{name: "vCPUs are 1 to 32, with SMT 1 or even", steps: []step{
		refused("PUT", "/machine-config", `{"vcpu_count":0,"mem_size_mib":128}`, "The number of vCPUs must be greater than 0"),
		refused("PUT", "/machine-config", `{"vcpu_count":33,"mem_size_mib":128}`, "The number of vCPUs must be greater than 0"),
		refused("PUT", "/machine-config", `{"vcpu_count":3,"mem_size_mib":128,"smt":true}`, "must be 1 or an even number if SMT is enabled."),
		ok("PUT", "/machine-config", `{"vcpu_count":3,"mem_size_mib":128}`),
		get("/machine-config", `"vcpu_count":3`),
	}},
	{name: "memory is not nothing", steps: []step{
		refused("PUT", "/machine-config", `{"vcpu_count":1,"mem_size_mib":0}`, "The memory size (MiB) is either 0"),
	}},
	{name: "PATCH /machine-config changes what it names", steps: []step{
		refused("PATCH", "/machine-config", `{}`, "Empty PATCH request."),
		ok("PUT", "/machine-config", `{"vcpu_count":2,"mem_size_mib":256}`),
		ok("PATCH", "/machine-config", `{"vcpu_count":4}`),
		get("/machine-config", `"vcpu_count":4,"mem_size_mib":256`),
	}},
	{name: "a refused machine leaves the old one", steps: []step{
		ok("PUT", "/machine-config", `{"vcpu_count":2,"mem_size_mib":256}`),
		refused("PUT", "/machine-config", `{"vcpu_count":64,"mem_size_mib":512}`, "vCPUs"),
		get("/machine-config", `"vcpu_count":2,"mem_size_mib":256`),
	}},

	{name: "kernel and initrd are opened when they are named", steps: []step{
		refused("PUT", "/boot-source", `{"kernel_image_path":"nope"}`, "Boot source error: The kernel file cannot be opened: No such file or directory (os error 2)"),
		refused("PUT", "/boot-source", `{"kernel_image_path":""}`, "The kernel file cannot be opened"),
		refused("PUT", "/boot-source", `{"kernel_image_path":"kernel","initrd_path":"nope"}`, "The initrd file cannot be opened"),
		refused("PUT", "/boot-source", `{"kernel_image_path":"kernel","initrd_path":""}`, "The initrd file cannot be opened"),
		ok("PUT", "/boot-source", `{"kernel_image_path":"kernel","initrd_path":"initrd","boot_args":"quiet"}`),
		get("/vm/config", `"boot-source":{"kernel_image_path":"kernel","initrd_path":"initrd","boot_args":"quiet"}`),
	}},
	{name: "a command line has 2047 bytes at most", steps: []step{
		ok("PUT", "/boot-source", `{"kernel_image_path":"kernel","boot_args":"`+strings.Repeat("a", 2047)+`"}`),
		refused("PUT", "/boot-source", `{"kernel_image_path":"kernel","boot_args":"`+strings.Repeat("a", 2048)+`"}`, "The kernel command line is invalid"),
		ok("PUT", "/boot-source", `{"kernel_image_path":"kernel","boot_args":""}`),
	}},
	{name: "a start needs a kernel", steps: []step{
		refused("PUT", "/actions", `{"action_type":"InstanceStart"}`, "Cannot start microvm without kernel configuration."),
		get("/", `"state":"Not started"`),
	}},

	{name: "a drive's file is opened when it is named", steps: []step{
		refused("PUT", "/drives/a", `{"drive_id":"a","is_root_device":false,"path_on_host":"nope"}`, "Error manipulating the backing file: No such file or directory (os error 2) nope"),
		refused("PUT", "/drives/a", `{"drive_id":"a","is_root_device":false,"path_on_host":"/"}`, "Is a directory (os error 21)"),
		refused("PUT", "/drives/a", `{"drive_id":"a","is_root_device":false}`, "Invalid block config."),
		get("/vm/config", `"drives":[]`),
	}},
	{name: "drives keep the order of their first PUT", steps: []step{
		ok("PUT", "/drives/z", `{"drive_id":"z","is_root_device":false,"path_on_host":"disk1"}`),
		ok("PUT", "/drives/a", `{"drive_id":"a","is_root_device":false,"path_on_host":"disk2"}`),
		ok("PUT", "/drives/z", `{"drive_id":"z","is_root_device":false,"path_on_host":"disk1","is_read_only":true,"cache_type":"Writeback"}`),
		get("/vm/config", `"drives":[{"drive_id":"z","partuuid":null,"is_root_device":false,"cache_type":"Writeback","is_read_only":true,"path_on_host":"disk1","rate_limiter":null,"io_engine":"Sync","socket":null},{"drive_id":"a"`),
	}},
	{name: "the root drive is the first, and the only one", steps: []step{
		ok("PUT", "/drives/a", `{"drive_id":"a","is_root_device":false,"path_on_host":"disk1"}`),
		ok("PUT", "/drives/r", `{"drive_id":"r","is_root_device":true,"path_on_host":"disk2"}`),
		refused("PUT", "/drives/s", `{"drive_id":"s","is_root_device":true,"path_on_host":"disk2"}`, "A root block device already exists!"),
		refused("PUT", "/drives/a", `{"drive_id":"a","is_root_device":true,"path_on_host":"disk1"}`, "A root block device already exists!"),
		get("/vm/config", `"drives":[{"drive_id":"r"`),
		ok("PUT", "/drives/r", `{"drive_id":"r","is_root_device":false,"path_on_host":"disk2"}`),
	}},

	{name: "the vsock socket is bound when it is named", steps: []step{
		refused("PUT", "/vsock", `{"guest_cid":3,"uds_path":"disk1"}`, "Error binding to the host-side Unix socket: Address"),
		refused("PUT", "/vsock", `{"guest_cid":3,"uds_path":"nodir/v.sock"}`, "No such file or directory (os error 2)"),
		refused("PUT", "/vsock", `{"guest_cid":3,"uds_path":"`+strings.Repeat("v", 120)+`"}`, "path must be shorter than SUN_LEN"),
		get("/vm/config", `"vsock":null`),
		ok("PUT", "/vsock", `{"guest_cid":3,"uds_path":"v.sock"}`),
		get("/vm/config", `"vsock":{"guest_cid":3,"uds_path":"v.sock"}`),
		ok("PUT", "/vsock", `{"guest_cid":4,"uds_path":"v.sock"}`),
		refused("PUT", "/drives/v", `{"drive_id":"v","is_root_device":false,"path_on_host":"v.sock"}`, "No such device or address (os error 6) v.sock"),
	}},

	{name: "a balloon fits into the memory", steps: []step{
		refused("GET", "/balloon", "", "No balloon device found."),
		refused("PUT", "/balloon", `{"amount_mib":1000,"deflate_on_oom":true}`, "Amount of pages requested is too large."),
		ok("PUT", "/balloon", `{"amount_mib":64,"deflate_on_oom":true}`),
		get("/balloon", `{"amount_mib":64,"deflate_on_oom":true,"stats_polling_interval_s":0`),
		refused("PUT", "/machine-config", `{"vcpu_count":1,"mem_size_mib":32}`, "smaller than the previously set balloon device target size."),
	}, lacked: "balloon", lackedBy: step{method: "PUT", path: "/balloon", body: `{"amount_mib":64,"deflate_on_oom":true}`}},
	{name: "entropy is a device", steps: []step{
		ok("PUT", "/entropy", `{}`), get("/vm/config", `"entropy":{"rate_limiter":null}`),
	}},

	{name: "the log is a file that is there", until: "1.14", steps: []step{
		refused("PUT", "/logger", `{"log_path":"nope"}`, "Failed to open target file: No such file or directory (os error 2)"),
	}},
	{name: "log levels have many spellings", steps: []step{
		ok("PUT", "/logger", `{"log_path":"disk1","level":"WARNING","show_level":true}`),
		ok("PUT", "/logger", `{"level":"info","show_log_origin":false}`),
		ok("PUT", "/logger", `{"level":null}`),
	}},
	{name: "metrics are set once", steps: []step{
		ok("PUT", "/metrics", `{"metrics_path":"disk1"}`),
		refused("PUT", "/metrics", `{"metrics_path":"disk1"}`, "Reinitialization of metrics not allowed."),
	}},

	{name: "metadata is any JSON", steps: []step{
		get("/mmds", `{}`),
		refused("PATCH", "/mmds", `{"a":1}`, "The MMDS data store is not initialized."),
		ok("PUT", "/mmds", `{"a":{"b":1,"c":2}}`),
		ok("PATCH", "/mmds", `{"a":{"b":null,"d":[3]}}`),
		get("/mmds", `{"a":{"c":2,"d":[3]}}`),
		refused("PUT", "/mmds/foo", `{}`, "Unrecognized PUT request path `foo`."),
	}},
	{name: "metadata has a limit", steps: []step{
		ok("PUT", "/mmds", `{"a":"`+strings.Repeat("x", 51190)+`"}`),
		{"PATCH", "/mmds", `{"b":"` + strings.Repeat("x", 51100) + `"}`, 413, "The MMDS patch request doesn't fit."},
	}},
	{name: "metadata is served to interfaces that are there", steps: []step{
		refused("PUT", "/mmds/config", `{"network_interfaces":[]}`, "The list of network interface IDs that allow forwarding MMDS requests is empty."),
		refused("PUT", "/mmds/config", `{"network_interfaces":["a"]}`, "at least one ID that does not correspond"),
		refused("PUT", "/mmds/config", `{"network_interfaces":["a"],"ipv4_address":"10.0.0.1"}`, "The MMDS IPv4 address is not link local."),
	}},

	{name: "what needs a running machine is refused before the start", steps: []step{
		refused("PATCH", "/vm", `{"state":"Paused"}`, "The requested operation is not supported before starting the microVM."),
		refused("PATCH", "/vm", `{"state":"Resumed"}`, "not supported before starting the microVM."),
		refused("PUT", "/actions", `{"action_type":"SendCtrlAltDel"}`, "not supported before starting the microVM."),
		refused("PUT", "/actions", `{"action_type":"FlushMetrics"}`, "not supported before starting the microVM."),
		refused("PATCH", "/drives/a", `{"drive_id":"a","path_on_host":"disk1"}`, "not supported before starting the microVM."),
		refused("PATCH", "/network-interfaces/a", `{"iface_id":"a"}`, "not supported before starting the microVM."),
		refused("PATCH", "/balloon", `{"amount_mib":1}`, "not supported before starting the microVM."),
		refused("GET", "/balloon/statistics", "", "not supported before starting the microVM."),
		refused("PUT", "/snapshot/create", `{"snapshot_path":"s","mem_file_path":"m"}`, "not supported before starting the microVM."),
	}},
	{name: "a snapshot is loaded into nothing", steps: []step{
		ok("PUT", "/machine-config", `{"vcpu_count":1,"mem_size_mib":128}`),
		refused("PUT", "/snapshot/load", `{"snapshot_path":"s","mem_backend":{"backend_type":"File","backend_path":"m"}}`, "Loading a microVM snapshot not allowed after configuring boot-specific resources."),
	}},
	{name: "a snapshot has one memory", steps: []step{
		refused("PUT", "/snapshot/load", `{"snapshot_path":"s"}`, "missing field: either `mem_backend` or `mem_file_path` is required"),
		refused("PUT", "/snapshot/load", `{"snapshot_path":"s","mem_file_path":"m","mem_backend":{"backend_type":"File","backend_path":"m"}}`, "too many fields"),
		refused("PUT", "/snapshot", `{}`, "Missing snapshot operation type."),
	}},
}
