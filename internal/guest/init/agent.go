package guestinit

import (
	"os"
	"strconv"
	"syscall"
)

const (
	// agentPath is where the agent is seen by everything in the guest.
	agentPath = "/run/banger/agent"

	// agentName starts with "@", so that an init which kills everything at its
	// end (systemd-shutdown) leaves the agent to the last moment.
	agentName = "@banger-agent"

	agentLog = "/run/banger/agent.log"
)

// startAgent starts the agent in the root filesystem and gives its process id.
func startAgent() (int, error) {
	null, err := os.Open("/dev/null")
	if err != nil {
		return 0, cannot("start the agent", err)
	}
	defer null.Close()
	log, err := os.OpenFile(agentLog, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return 0, cannot("start the agent", err)
	}
	defer log.Close()
	pid, err := syscall.ForkExec(agentPath, []string{agentName}, &syscall.ProcAttr{
		Dir:   "/",
		Env:   []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "TERM=linux"},
		Files: []uintptr{null.Fd(), log.Fd(), log.Fd()},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return 0, cannot("start the agent", err)
	}
	prefer(pid)
	return pid, cannot("keep the agent from being killed for its memory", writeFile("/proc/"+strconv.Itoa(pid)+"/oom_score_adj", "-1000"))
}

// prefer lets the agent's session have the processor before others: in a
// guest's first second all of the image's init starts at once, and the command
// that the guest was started for waits for the agent. What the agent starts has
// sessions of its own, and so no preference. A kernel without CONFIG_SCHED_AUTOGROUP
// schedules no sessions, and has no such file.
func prefer(pid int) {
	_ = writeFile("/proc/"+strconv.Itoa(pid)+"/autogroup", "-10")
}

func writeFile(path, text string) error {
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	_, err = file.WriteString(text)
	return err
}
