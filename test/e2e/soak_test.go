//go:build e2e && soak

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/banger-vm/banger/internal/vm"
)

// Every step there is, with real guests: the scripts are written from the lists.
func TestKillAtEveryStep(t *testing.T) {
	dir := t.TempDir()
	for name, script := range everyStep() {
		if err := os.WriteFile(filepath.Join(dir, name+".txtar"), []byte(script), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	run(t, dir)
}

// everyStep gives a script for each operation that has steps and everybody who can
// be killed over it: bangerd, its client, the VMM.
func everyStep() map[string]string {
	const bangerd, client, vmms = "killat", "killclient", "killvmms"
	return map[string]string{
		"create_bangerd": script(stepsOfCreate(bangerd)),
		"create_client":  script(stepsOfCreate(client)),
		"start_bangerd":  script(stepsOfStart(bangerd)),
		"start_client":   script(stepsOfStart(client)),
		"start_vmm":      script(stepsOfStart(vmms)),
		"stop_bangerd":   script(stepsOfStop(bangerd)),
		"stop_client":    script(stepsOfStop(client)),
		"stop_vmm":       script(stepsOfStop(vmms)),
		"delete_bangerd": script(stepsOfDelete(bangerd)),
		"delete_client":  script(stepsOfDelete(client)),
		"delete_vmm":     script(stepsOfDelete(vmms)),
		"pause_bangerd":  script(stepsOfPause),
	}
}

// say adds a line to a script.
type say func(format string, args ...any)

func script(write func(say)) string {
	var text strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&text, format+"\n", args...) }
	line("env BANGER_TAP_POOL_SIZE=0")
	write(line)
	line("exec banger vm delete box")
	line("nothing")
	return text.String()
}

func stepsOfCreate(kill string) func(say) {
	return func(say say) {
		for _, step := range vm.CreateSteps {
			say("%s %s banger vm create --name box --no-start", kill, step)
			say("exec banger vm create --name box --no-start")
			say("exec banger vm delete box")
		}
		say("exec banger vm create --name box --no-start")
	}
}

func stepsOfStart(kill string) func(say) {
	return func(say say) {
		say("exec banger vm create --name box --no-start")
		for _, step := range vm.StartSteps {
			say("%s %s banger vm start box $WAIT", kill, step)
			say("exec banger vm stop --force box") // where there was no VMM yet to kill
		}
		say("exec banger vm start box $WAIT")
		say("exec banger vm exec $WAIT box -- true")
	}
}

func stepsOfStop(kill string) func(say) {
	return func(say say) {
		say("exec banger vm create --name box $WAIT")
		say("exec banger vm exec $WAIT box -- sh -c 'echo synced > /root/a && sync /root/a /root'")
		last := len(vm.StopSteps) - 1 // comes only where the guest does not go down by itself
		for _, step := range slices.Concat(vm.StopSteps[:last], vm.EndSteps) {
			say("%s %s banger vm stop box", kill, step)
			say("exec banger vm restart box $WAIT")
			say("exec banger vm exec $WAIT box -- cat /root/a")
			say("stdout '^synced$'")
		}
		say("%s %s banger vm stop --force box", kill, vm.StopSteps[last])
		say("exec banger vm stop --force box")
	}
}

func stepsOfDelete(kill string) func(say) {
	return func(say say) {
		for _, step := range vm.DeleteSteps {
			say("exec banger vm create --name box $WAIT")
			say("%s %s banger vm delete box", kill, step)
			say("exec banger vm delete box")
			say("exec banger vm list --json")
			say(`stdout '^\[\]$'`)
		}
		say("exec banger vm create --name box --no-start")
	}
}

// The full disk's pause is nobody's command, nor is the end of it: the next
// daemon must think of both. In the end the same boot runs on.
func stepsOfPause(say say) {
	say("smalldisk $XDG_STATE_HOME 1024")
	say("exec banger vm create --name box $WAIT")
	say("exec banger vm exec $WAIT box -- sh -c 'echo synced > /root/a; sync /root/a /root; cat /proc/sys/kernel/random/boot_id /root/a'")
	say("cp stdout before")
	const fill, free = "fallocate -l 930M $XDG_STATE_HOME/hog", "rm $XDG_STATE_HOME/hog"
	runsOn := func() {
		say("awaitstate box running")
		say("agrees")
		say("exec banger vm exec $WAIT box -- cat /proc/sys/kernel/random/boot_id /root/a")
		say("cmp stdout before")
	}
	for _, step := range vm.PauseSteps {
		say("killon %s %s", step, fill)
		say("awaitstate box paused")
		say("halted box")
		say("agrees")
		say("exec %s", free)
		runsOn()
	}
	for _, step := range vm.ResumeSteps {
		say("exec %s", fill)
		say("awaitstate box paused")
		say("killon %s %s", step, free)
		runsOn()
	}
}

// realLives is how many lives real guests have in a row.
func realLives() int {
	if n, err := strconv.Atoi(os.Getenv("REAL_LIVES")); err == nil {
		return n
	}
	return 50
}

// holds is what a daemon has of its host.
type holds struct {
	files, taps, goroutines int
	memory                  int // KiB resident
	rules                   string
}

// Many lives of real guests leave a daemon with what it had after the first.
func TestManyLives(t *testing.T) {
	p := newPerson(t)
	life := func() { p.banger("vm", "run", "--rm", "--wait", "agent", "--", "true") }
	for range 3 {
		life()
	}
	before := p.holds()
	begun := time.Now()
	for range realLives() {
		life()
	}
	t.Logf("%d lives in %v", realLives(), time.Since(begun).Round(time.Second))
	after := p.holds()
	const (
		more  = 16 << 10 // what the Go runtime takes and gives back as it likes
		going = 1        // the last life's tap, which goes in the background
	)
	if after.files > before.files || after.taps > before.taps+going || after.goroutines > before.goroutines+2 ||
		after.memory > before.memory+more || after.rules != before.rules {
		t.Errorf("after %d lives: %+v, before: %+v", realLives(), after, before)
	}
}

func (p *person) holds() holds {
	p.Helper()
	var status struct{ PID, Goroutines int }
	p.check(json.Unmarshal([]byte(p.banger("daemon", "status", "--json")), &status))
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", status.PID))
	p.check(err)
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", status.PID))
	p.check(err)
	h := holds{files: len(files), goroutines: status.Goroutines}
	_, resident, _ := strings.Cut(string(text), "VmRSS:")
	if _, err := fmt.Sscan(resident, &h.memory); err != nil {
		p.Fatalf("no VmRSS in %s", text)
	}
	links, err := netlink.LinkList()
	p.check(err)
	for _, l := range links {
		if l.Type() == "tuntap" {
			h.taps++
		}
	}
	// Without what is in the sets: whose connections are counted changes with what
	// the guests do.
	rules, err := exec.Command("nft", "--terse", "list", "ruleset").CombinedOutput()
	p.check(err)
	h.rules = string(rules)
	return h
}
