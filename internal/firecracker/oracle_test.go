package firecracker

import (
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"
)

// The tests in this file hold the bodies of this package to the official
// description of the API: what it has is modelled, or is ignored by name and
// with a reason.

// spec is what the tests need of the description (Swagger 2.0).
type spec struct {
	Paths       map[string]map[string]operation `yaml:"paths"`
	Definitions map[string]schema               `yaml:"definitions"`
}

type operation struct {
	Parameters []struct {
		In     string `yaml:"in"`
		Schema schema `yaml:"schema"`
	} `yaml:"parameters"`
	Responses map[string]struct {
		Schema schema `yaml:"schema"`
	} `yaml:"responses"`
}

type schema struct {
	Ref        string            `yaml:"$ref"`
	Type       string            `yaml:"type"`
	Required   []string          `yaml:"required"`
	Properties map[string]schema `yaml:"properties"`
	Items      *schema           `yaml:"items"`
	Enum       []string          `yaml:"enum"`
	Minimum    *float64          `yaml:"minimum"`
	Maximum    *float64          `yaml:"maximum"`
}

func readSpec(t *testing.T) spec {
	t.Helper()
	text, err := os.ReadFile("testdata/firecracker.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var s spec
	if err := yaml.Unmarshal(text, &s); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s spec) resolve(sc schema) schema {
	if name, ok := strings.CutPrefix(sc.Ref, "#/definitions/"); ok {
		return s.Definitions[name]
	}
	return sc
}

// modelled are the operations that Client has a method for.
var modelled = []string{
	"GET /", "GET /version", "GET /vm/config", "GET /machine-config", "GET /balloon/statistics",
	"PUT /actions", "PUT /balloon", "PUT /boot-source", "PUT /drives/{drive_id}", "PUT /entropy",
	"PUT /logger", "PUT /machine-config", "PUT /metrics", "PUT /network-interfaces/{iface_id}", "PUT /vsock",
	"PATCH /balloon", "PATCH /drives/{drive_id}", "PATCH /network-interfaces/{iface_id}", "PATCH /vm",
}

// ignored are the operations that nothing of banger asks for, and why.
var ignored = map[string]string{
	"GET /balloon":                 "the target is known: the driver set it",
	"PATCH /balloon/statistics":    "the interval given at the start is kept",
	"PATCH /balloon/hinting/start": "upstream calls hinting unsafe: it can corrupt memory",
	"PATCH /balloon/hinting/stop":  "upstream calls hinting unsafe: it can corrupt memory",
	"GET /balloon/hinting/status":  "upstream calls hinting unsafe: it can corrupt memory",
	"PUT /cpu-config":              "a guest gets the host's processor as it is",
	"PATCH /machine-config":        "PUT says it all",
	"GET /mmds":                    "guests are configured over vsock, which needs no network",
	"PUT /mmds":                    "guests are configured over vsock, which needs no network",
	"PATCH /mmds":                  "guests are configured over vsock, which needs no network",
	"PUT /mmds/config":             "guests are configured over vsock, which needs no network",
	"PUT /serial":                  "the console is stdout on all releases",
	"PUT /pmem/{id}":               "since 1.14 only; drives serve",
	"PATCH /pmem/{id}":             "since 1.14 only; drives serve",
	"GET /hotplug/memory":          "since 1.14 only; memory is fixed",
	"PUT /hotplug/memory":          "since 1.14 only; memory is fixed",
	"PATCH /hotplug/memory":        "since 1.14 only; memory is fixed",
	"PUT /snapshot/create":         "no snapshots are taken yet",
	"PUT /snapshot/load":           "no snapshots are taken yet",
}

func TestEveryOperationIsModelledOrIgnored(t *testing.T) {
	seen := map[string]bool{}
	for path, operations := range readSpec(t).Paths {
		for method := range operations {
			name := strings.ToUpper(method) + " " + path
			seen[name] = true
			known, reason := slices.Contains(modelled, name), ignored[name]
			if known == (reason != "") {
				t.Errorf("%s: modelled %t, ignored %q; it must be one of them", name, known, reason)
			}
		}
	}
	for _, name := range modelled {
		if !seen[name] {
			t.Errorf("%s is modelled and not in the description", name)
		}
	}
	for name := range ignored {
		if !seen[name] {
			t.Errorf("%s is ignored and not in the description", name)
		}
	}
}

// bodies are the definitions by the types that model them.
var bodies = map[string]any{
	"Balloon":                 Balloon{},
	"BalloonUpdate":           BalloonUpdate{},
	"BalloonStats":            BalloonStats{},
	"BalloonStatsUpdate":      BalloonStatsUpdate{},
	"BootSource":              BootSource{},
	"Drive":                   Drive{},
	"EntropyDevice":           Entropy{},
	"FullVmConfiguration":     VMConfig{},
	"InstanceActionInfo":      Action{},
	"InstanceInfo":            InstanceInfo{},
	"Logger":                  Logger{},
	"MachineConfiguration":    MachineConfig{},
	"Metrics":                 Metrics{},
	"MmdsConfig":              MMDSConfig{},
	"NetworkInterface":        NetworkInterface{},
	"PartialDrive":            DriveUpdate{},
	"PartialNetworkInterface": NetworkInterfaceUpdate{},
	"RateLimiter":             RateLimiter{},
	"TokenBucket":             TokenBucket{},
	"Vm":                      VM{},
	"Vsock":                   Vsock{},
}

// ignoredBodies are definitions of ignored operations, and what is no object.
var ignoredBodies = map[string]string{
	"ArmRegisterModifier":     "of PUT /cpu-config",
	"BalloonHintingStatus":    "of /balloon/hinting",
	"BalloonStartCmd":         "of /balloon/hinting",
	"CpuConfig":               "of PUT /cpu-config",
	"CpuTemplate":             "a string: CPUTemplate",
	"CpuidLeafModifier":       "of PUT /cpu-config",
	"CpuidRegisterModifier":   "of PUT /cpu-config",
	"Error":                   "Fault, read by faultOf",
	"FirecrackerVersion":      "read by Client.Version",
	"MemoryBackend":           "of PUT /snapshot/load",
	"MemoryHotplugConfig":     "of /hotplug/memory",
	"MemoryHotplugSizeUpdate": "of /hotplug/memory",
	"MemoryHotplugStatus":     "of /hotplug/memory",
	"MmdsContentsObject":      "of /mmds",
	"MsrModifier":             "of PUT /cpu-config",
	"NetworkOverride":         "of PUT /snapshot/load",
	"PartialPmem":             "of /pmem",
	"Pmem":                    "of /pmem",
	"SerialDevice":            "of PUT /serial",
	"SnapshotCreateParams":    "of PUT /snapshot/create",
	"SnapshotLoadParams":      "of PUT /snapshot/load",
	"VcpuFeatures":            "of PUT /cpu-config",
	"VsockOverride":           "of PUT /snapshot/load",
}

// ignoredFields are fields of modelled bodies that are not modelled.
var ignoredFields = map[string]string{
	"FullVmConfiguration.cpu-config":     "of PUT /cpu-config",
	"FullVmConfiguration.memory-hotplug": "of /hotplug/memory",
	"FullVmConfiguration.pmem":           "of /pmem",
	"Metrics.emit_id":                    "unreleased",
	"Metrics.properties":                 "unreleased",
}

func TestEveryBodyIsModelledOrIgnored(t *testing.T) {
	definitions := readSpec(t).Definitions
	for name, definition := range definitions {
		body, known := bodies[name]
		if known == (ignoredBodies[name] != "") {
			t.Errorf("%s: modelled %t, ignored %q; it must be one of them", name, known, ignoredBodies[name])
		}
		if known {
			checkBody(t, name, definition, reflect.TypeOf(body))
		}
	}
	for name := range bodies {
		if _, ok := definitions[name]; !ok {
			t.Errorf("%s is modelled and not in the description", name)
		}
	}
}

func checkBody(t *testing.T, name string, definition schema, body reflect.Type) {
	fields := map[string]reflect.StructField{}
	for i := range body.NumField() {
		fields[JSONName(body.Field(i))] = body.Field(i)
	}
	for property := range definition.Properties {
		full := name + "." + property
		if _, known := fields[property]; known == (ignoredFields[full] != "") {
			t.Errorf("%s: modelled %t, ignored %q; it must be one of them", full, known, ignoredFields[full])
		}
	}
	for field, f := range fields {
		if _, ok := definition.Properties[field]; !ok {
			t.Errorf("%s.%s is modelled and not in the description", name, field)
		}
		optional := strings.Contains(f.Tag.Get("json"), ",omitempty")
		if required := slices.Contains(definition.Required, field); required && optional {
			t.Errorf("%s.%s is required and tagged omitempty", name, field)
		}
	}
}

// check validates a JSON value, as encoding/json decodes it, against a
// schema, and returns what is wrong with it.
func (s spec) check(at string, sc schema, value any) []string {
	sc = s.resolve(sc)
	switch v := value.(type) {
	case map[string]any:
		return s.checkObject(at, sc, v)
	case []any:
		var wrong []string
		for i, element := range v {
			wrong = append(wrong, s.check(fmt.Sprintf("%s[%d]", at, i), *sc.Items, element)...)
		}
		return wrong
	case string:
		if sc.Type != "string" || len(sc.Enum) > 0 && !slices.Contains(sc.Enum, v) {
			return []string{fmt.Sprintf("%s: %q is not a %s of %v", at, v, sc.Type, sc.Enum)}
		}
	case bool:
		if sc.Type != "boolean" {
			return []string{fmt.Sprintf("%s: a boolean where a %s is due", at, sc.Type)}
		}
	case float64:
		low, high := sc.Minimum != nil && v < *sc.Minimum, sc.Maximum != nil && v > *sc.Maximum
		if sc.Type != "integer" || low || high {
			return []string{fmt.Sprintf("%s: %v is not the %s that is due", at, v, sc.Type)}
		}
	default:
		return []string{fmt.Sprintf("%s: %v", at, value)}
	}
	return nil
}

func (s spec) checkObject(at string, sc schema, object map[string]any) []string {
	var wrong []string
	for _, name := range sc.Required {
		if _, ok := object[name]; !ok {
			wrong = append(wrong, fmt.Sprintf("%s.%s is missing", at, name))
		}
	}
	for name, value := range object {
		property, ok := sc.Properties[name]
		if !ok {
			wrong = append(wrong, fmt.Sprintf("%s.%s is unknown", at, name))
			continue
		}
		wrong = append(wrong, s.check(at+"."+name, property, value)...)
	}
	return wrong
}
