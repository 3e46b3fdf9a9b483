package spelling

import "testing"

func TestNearest(t *testing.T) {
	words := []string{"debian-bookworm", "debian-trixie", "alpine", "busybox"}
	for wrong, want := range map[string]string{
		"debian-bokworm": "debian-bookworm", "Debian-Trixie": "debian-trixie", "alpin": "alpine", "alpines": "alpine", "windows": "", "": "",
	} {
		if got := Nearest(wrong, words); got != want {
			t.Errorf("Nearest(%q) = %q, want %q", wrong, got, want)
		}
	}
}
