package vm

import "testing"

func TestOvercommitted(t *testing.T) {
	host := hostMemory{total: 8000, available: 3000}
	for _, tt := range []struct {
		promised, own int64
		want          string
	}{
		{0, 2048, ""},
		{0, 3000, ""},
		{4096, 2048, ""},
		{5000, 3000, ""},
		{0, 3001, "this VM may take 3001 MiB of memory, and 3000 MiB of the host's 8000 MiB are available"},
		{0, 9000, "this VM may take 9000 MiB of memory, and the host has 8000 MiB (3000 MiB are available)"},
		{6000, 2048, "this VM may take 2048 MiB of memory and those that run 6000 MiB, 8048 MiB together, and the host has 8000 MiB (3000 MiB are available); when they use it, the host's kernel ends one of them"},
	} {
		if got := overcommitted(tt.promised, tt.own, host); got != tt.want {
			t.Errorf("%d MiB beside %d MiB: %q, want %q", tt.own, tt.promised, got, tt.want)
		}
	}
}

func TestReadHostMemory(t *testing.T) {
	host, err := readHostMemory()
	if err != nil || host.total < 64 || host.available < 1 || host.available > host.total {
		t.Errorf("this host has %+v (%v)", host, err)
	}
}
