package firecracker

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"
)

// Version is a Firecracker release, like 1.12.1 or 1.17.0-dev.
type Version struct {
	Major, Minor, Patch int
	// Pre is what follows the first hyphen, empty for a release.
	Pre string
}

// ParseVersion reads "1.12.1", "v1.12.1", "1.14" or "1.17.0-dev".
func ParseVersion(text string) (Version, error) {
	numbers, pre, _ := strings.Cut(strings.TrimPrefix(text, "v"), "-")
	v := Version{Pre: pre}
	parts := strings.Split(numbers, ".")
	if len(parts) < 2 || len(parts) > 3 {
		return Version{}, fmt.Errorf("%q is not a version like 1.12.1", text)
	}
	for i, to := range []*int{&v.Major, &v.Minor, &v.Patch}[:len(parts)] {
		n, err := strconv.ParseUint(parts[i], 10, 16)
		if err != nil {
			return Version{}, fmt.Errorf("%q is not a version like 1.12.1", text)
		}
		*to = int(n)
	}
	return v, nil
}

func (v Version) String() string {
	text := fmt.Sprintf("%d.%d.%d", v.Major, v.Minor, v.Patch)
	if v.Pre != "" {
		text += "-" + v.Pre
	}
	return text
}

// AtLeast says whether v has what release w brought. A development version
// counts as its release.
func (v Version) AtLeast(w Version) bool {
	if v.Major != w.Major {
		return v.Major > w.Major
	}
	if v.Minor != w.Minor {
		return v.Minor > w.Minor
	}
	return v.Patch >= w.Patch
}

// LosesVsockOnResume says that after PATCH /vm Paused and Resumed nothing
// from the host reaches the guest over vsock any more: pause the process
// instead, by SIGSTOP. So in 1.16.0 and 1.16.1 (upstream's change #6100).
func (v Version) LosesVsockOnResume() bool {
	return v.Major == 1 && v.Minor == 16 && v.Patch <= 1
}

// TooOldError says that the running VMM does not know a field.
type TooOldError struct {
	Field   string  // the API's name
	Since   Version // the first release that knows it
	Running Version
}

func (e *TooOldError) Error() string {
	return fmt.Sprintf("`%s` needs firecracker %s or newer, and this is %s", e.Field, e.Since, e.Running)
}

// fitTo returns a copy of body without what release v does not know: a
// droppable field is left out, any other that is set is a *TooOldError.
func fitTo(v Version, body any) (any, error) {
	fit := reflect.New(reflect.TypeOf(body)).Elem()
	fit.Set(reflect.ValueOf(body))
	if err := fitStruct(v, fit); err != nil {
		return nil, err
	}
	return fit.Interface(), nil
}

func fitStruct(v Version, s reflect.Value) error {
	for i := range s.NumField() {
		field := s.Type().Field(i)
		since, droppable, ok := Since(field)
		if !ok || v.AtLeast(since) || s.Field(i).IsZero() {
			continue
		}
		if !droppable {
			return &TooOldError{Field: JSONName(field), Since: since, Running: v}
		}
		s.Field(i).SetZero()
	}
	return nil
}

// Since reads a field's since tag; ok is false without one.
func Since(field reflect.StructField) (since Version, droppable, ok bool) {
	tag, ok := field.Tag.Lookup("since")
	if !ok {
		return Version{}, false, false
	}
	text, droppableTag := strings.CutSuffix(tag, ",droppable")
	since, err := ParseVersion(text)
	if err != nil {
		panic(fmt.Sprintf("firecracker: field %s: %v", field.Name, err))
	}
	return since, droppableTag, true
}

// JSONName is a field's name in the API.
func JSONName(field reflect.StructField) string {
	name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
	return name
}
