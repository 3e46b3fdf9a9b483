package cli

import (
	"path/filepath"
	"testing"

	"github.com/banger-vm/banger/api"
)

func TestPullRequest(t *testing.T) {
	here, err := filepath.Abs("app.tar")
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		options imagePullOptions
		want    api.PullImage
	}{
		"a name":      {imagePullOptions{reference: "debian-bookworm"}, api.PullImage{Name: "debian-bookworm"}},
		"a reference": {imagePullOptions{reference: "alpine:3.20", name: "a", kernel: "k", platform: "linux/arm64"}, api.PullImage{Reference: "alpine:3.20", Name: "a", Kernel: "k", Platform: "linux/arm64"}},
		"a file":      {imagePullOptions{tar: "app.tar", name: "app", maxSize: "64G"}, api.PullImage{Archive: here, Name: "app", MaxMiB: 64 << 10}},
		"one of many": {imagePullOptions{reference: "app:1", tar: "app.tar"}, api.PullImage{Archive: here, Reference: "app:1"}},
		"plain":       {imagePullOptions{reference: "reg.test/a", plainHTTP: true}, api.PullImage{Reference: "reg.test/a", PlainHTTP: true}},
	}
	for name, test := range tests {
		got, err := test.options.request()
		if err != nil || got != test.want {
			t.Errorf("%s: got %+v, %v", name, got, err)
		}
	}
	for name, options := range map[string]imagePullOptions{
		"nothing":       {},
		"a name's name": {reference: "debian-bookworm", name: "x"},
		"no size":       {reference: "a:1", maxSize: "much"},
	} {
		if _, err := options.request(); err == nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
