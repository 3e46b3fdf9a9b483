package oom

import (
	"slices"
	"testing"
)

// The lines are those of kernels 6.18 and 4.19.
func TestParse(t *testing.T) {
	for line, want := range map[string]victim{
		"Memory cgroup out of memory: Killed process 26978 (perl) total-vm:28696kB, anon-rss:20224kB, file-rss:4540kB, shmem-rss:0kB, UID:720123 pgtables:100kB oom_score_adj:0": {
			pid: 26978, uid: 720123, kib: 20224, limit: true},
		"Out of memory: Killed process 51 (qemu-system-x86) total-vm:9kB, anon-rss:1024kB, file-rss:1kB, shmem-rss:2048kB, UID:720001 pgtables:100kB oom_score_adj:0": {
			pid: 51, uid: 720001, kib: 3072},
		"Out of memory (oom_kill_allocating_task): Killed process 51 (a) total-vm:9kB, anon-rss:1kB, file-rss:1kB, shmem-rss:0kB, UID:0": {
			pid: 51, uid: 0, kib: 1},
		"Out of memory: Killed process 51 (a) total-vm:9kB, anon-rss:1kB, file-rss:1kB, shmem-rss:0kB": {
			pid: 51, uid: -1, kib: 1},
		"Out of memory: Killed process 51 (\x1b[2J) (x) total-vm:9kB, anon-rss:1kB, file-rss:1kB, shmem-rss:0kB, UID:7": {
			pid: 51, uid: 7, kib: 1},
	} {
		if got, ok := parse(line); !ok || got != want {
			t.Errorf("%s\n got %+v, %v\nwant %+v", line, got, ok, want)
		}
	}
	for _, line := range []string{
		"",
		"oom-kill:constraint=CONSTRAINT_MEMCG,task=perl,pid=26978,uid=720123",
		"systemd[1]: Out of memory: Killed process 51 (a) total-vm:9kB, anon-rss:1kB, file-rss:1kB, shmem-rss:0kB",
	} {
		if got, ok := parse(line); ok {
			t.Errorf("%q is no kill, and was read as %+v", line, got)
		}
	}
}

func TestFilesOfACgroup(t *testing.T) {
	for text, want := range map[string][]string{
		"0::/user.slice/x\n": {"/sys/fs/cgroup/user.slice/x/memory.events"},
		"9:name=systemd:/\n4:memory:/a/b\n1:cpu:/\n0::/\n": {"/sys/fs/cgroup/memory/a/b/memory.oom_control", "/sys/fs/cgroup/memory.events"},
		"garbage\n": nil,
		"":          nil,
	} {
		if got := filesOf(text); !slices.Equal(got, want) {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}
