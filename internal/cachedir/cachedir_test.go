package cachedir

import (
	"os"
	"path/filepath"
	"testing"
)

// TestEmpty empties a cache while it is used, by two, and then.
func TestEmpty(t *testing.T) {
	d := Dir{Path: filepath.Join(t.TempDir(), "cache"), Files: []string{"a/*", "b/*"}}
	if took, err := d.Took(); took != 0 || err != nil {
		t.Errorf("of none: %d, %v", took, err)
	}
	for _, name := range []string{"a/whole", "b/other.part", "c/kept"} {
		path := filepath.Join(d.Path, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, make([]byte, 8192), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var users []*os.File
	for range 2 {
		user, err := d.Use(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		users = append(users, user)
	}
	for _, user := range users {
		if took, err := d.Empty(); took != 0 || err != nil {
			t.Errorf("while it is used: %d, %v", took, err)
		}
		user.Close()
	}
	if took, err := d.Took(); took != 2*8192 || err != nil {
		t.Errorf("told: %d, %v", took, err)
	}
	if took, err := d.Empty(); took != 2*8192 || err != nil {
		t.Errorf("emptied: %d, %v", took, err)
	}
	if left, _ := filepath.Glob(filepath.Join(d.Path, "*/*")); len(left) != 1 || filepath.Base(left[0]) != "kept" {
		t.Errorf("left: %v", left)
	}
}
