package guestinit

import (
	"os"
	"strconv"
	"syscall"
	"time"
)

const (
	// agentPath is where the agent is seen by everything in the guest.
	agentPath = "/run/banger/agent"

	// agentName starts with "@", so that an init which kills everything at its
	// end (systemd-shutdown) leaves the agent to the last moment.
	agentName = "@banger-agent"

	agentLog = "/run/banger/agent.log"
)

// startedAgent is the agent's process.
type startedAgent struct {
	pid        int
	configured *os.File // ends when the guest has its identity, or the agent is gone
}

// startAgent starts the agent in the root filesystem. It is told which of its
// files it is to close when the host has given the guest its identity.
func startAgent() (startedAgent, error) {
	agent, err := forkAgent()
	if err != nil {
		return agent, cannot("start the agent", err)
	}
	return agent, cannot("keep the agent from being killed for its memory", writeFile("/proc/"+strconv.Itoa(agent.pid)+"/oom_score_adj", "-1000"))
}

func forkAgent() (startedAgent, error) {
	null, err := os.Open("/dev/null")
	if err != nil {
		return startedAgent{}, err
	}
	defer null.Close()
	log, err := os.OpenFile(agentLog, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return startedAgent{}, err
	}
	defer log.Close()
	configured, tell, err := os.Pipe()
	if err != nil {
		return startedAgent{}, err
	}
	defer tell.Close()
	files := []uintptr{null.Fd(), log.Fd(), log.Fd(), tell.Fd()}
	pid, err := syscall.ForkExec(agentPath, []string{agentName, "configured", strconv.Itoa(len(files) - 1)}, &syscall.ProcAttr{
		Dir:   "/",
		Env:   []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "TERM=linux"},
		Files: files,
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		configured.Close()
		return startedAgent{}, err
	}
	return startedAgent{pid: pid, configured: configured}, nil
}

// identityWait bounds how long the image's init waits for the guest's identity:
// a guest that restarts while its host's daemon is gone starts without.
const identityWait = 2 * time.Second

// awaitIdentity returns when the host has given the guest its name, addresses
// and keys. So the image's init finds them from its start on, and takes no
// processor from the agent, which the host and its user wait for.
func (a startedAgent) awaitIdentity() {
	defer a.configured.Close()
	if err := a.configured.SetReadDeadline(time.Now().Add(identityWait)); err != nil {
		return // the init can do without
	}
	_, _ = a.configured.Read(make([]byte, 1))
}

// prefer lets the agent's session have the processor before others: in a
// guest's first second all of the image's init starts at once, and the command
// that the guest was started for waits for the agent. What the agent starts has
// sessions of its own, and so no preference. A kernel without CONFIG_SCHED_AUTOGROUP
// schedules no sessions, and has no such file.
func (a startedAgent) prefer() {
	_ = writeFile("/proc/"+strconv.Itoa(a.pid)+"/autogroup", "-10")
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
