package agent

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/internal/guest/proto"
)

const (
	// sshdTimeout bounds the look for the guest's own sshd. Nothing but a host
	// within reach answers at 127.0.0.1, so it does so at once or not at all.
	sshdTimeout = time.Second
	// sshdProgram is where every distribution has it, by a link at least.
	sshdProgram = "/usr/sbin/sshd"
	// sshdState says how far the agent has come with installing it, with one
	// of the words below. It is on the disk before the first step.
	sshdState      = "/var/lib/banger/openssh"
	sshdInstalling = "installing"
	sshdInstalled  = "installed"
	// installLimit bounds one command of a package manager.
	installLimit = time.Hour
	// listenLimit bounds how long a server that was started may take to listen.
	listenLimit = time.Minute
	// installPriority is that of what is done in the background (see nice(2)).
	installPriority = 10
)

// sshd is the guest's own SSH server. The agent serves SSH where there is none;
// in an image that has an init and a package manager it installs one, once,
// and then hands new connections to it.
type sshd struct {
	agent *Agent
	addr  string // where it listens

	once sync.Once
	// unready is while the server is being installed: it may listen already,
	// by somebody else's configuration.
	unready atomic.Bool
}

// dial connects to the guest's own SSH server, if one listens.
func (s *sshd) dial() (net.Conn, error) {
	if s.unready.Load() {
		return nil, errors.New("it is being installed")
	}
	return net.DialTimeout("tcp", s.addr, sshdTimeout)
}

// packageManager installs OpenSSH's server by these commands, each of which
// must succeed.
type packageManager struct {
	program  string
	commands [][]string
}

// packageManagers are those that the agent knows. What a life before did not
// finish is mended by the first command (apt) or by the manager itself.
var packageManagers = []packageManager{
	{"apt-get", [][]string{
		{"dpkg", "--force-confold", "--configure", "--pending"},
		{"apt-get", "-q", "-o", "DPkg::Lock::Timeout=600", "update"},
		{"apt-get", "-q", "-y", "-o", "DPkg::Lock::Timeout=600", "-o", "Dpkg::Options::=--force-confold", "--no-install-recommends", "install", "openssh-server"},
	}},
	{"apk", [][]string{{"apk", "add", "--no-cache", "--no-progress", "openssh-server", "openssh-sftp-server"}}},
	{"dnf", [][]string{{"dnf", "-y", "install", "openssh-server"}}},
	{"zypper", [][]string{{"zypper", "--non-interactive", "install", "--no-recommends", "openssh-server"}}},
	{"pacman", [][]string{{"pacman", "-Sy", "--noconfirm", "--needed", "openssh"}}},
}

// begin sees to it, in the background and once in a life of the guest, that an
// SSH server is installed and runs.
func (s *sshd) begin() {
	s.once.Do(func() {
		state := s.state()
		there := isProgram(s.agent.path(sshdProgram))
		switch {
		case s.agent.init == proto.InitNone:
		case state == sshdInstalled:
			if there && s.isOurs() {
				go s.tell("start", s.start)
			}
		case state == sshdInstalling || !there:
			manager, err := s.manager()
			if err != nil {
				return // the agent serves SSH for good
			}
			s.unready.Store(true)
			go s.tell("install", func() error { return s.install(manager) })
		}
	})
}

func (s *sshd) state() string {
	word, err := os.ReadFile(s.agent.path(sshdState))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(word))
}

func (s *sshd) setState(word string) error {
	return putFile(s.agent.path(sshdState), []byte(word+"\n"), 0o644)
}

// manager finds the image's package manager.
func (s *sshd) manager() (packageManager, error) {
	for _, m := range packageManagers {
		if _, err := findProgram(order{argv: []string{m.program}, env: s.agent.rootEnv(nil, false), dir: "/"}); err == nil {
			return m, nil
		}
	}
	return packageManager{}, errors.New("the image has no package manager that is known")
}

// tell does a thing and writes down when it could not be done.
func (s *sshd) tell(what string, do func() error) {
	if err := do(); err != nil {
		s.say("cannot %s an SSH server: %v", what, err)
		s.say("banger serves SSH in this guest; the next start tries again")
	}
}

func (s *sshd) say(format string, args ...any) {
	s.agent.diary.add("openssh", fmt.Sprintf(format, args...))
}

// install installs the server when the image's init is done, with which
// package scripts count, and hands over to it.
func (s *sshd) install(m packageManager) error {
	s.agent.events.await(systemReady)
	s.say("the image has no SSH server: installing it with %s; banger serves SSH meanwhile", m.program)
	if err := errors.Join(s.setState(sshdInstalling), s.prepare()); err != nil {
		return err
	}
	for _, argv := range m.commands {
		if err := s.run(argv...); err != nil {
			return err
		}
	}
	if err := s.start(); err != nil {
		return err
	}
	s.unready.Store(false) // before anybody can see that it is installed
	if err := s.setState(sshdInstalled); err != nil {
		return err
	}
	s.say("the SSH server is installed and serves from now on")
	return nil
}

// prepare writes the policy and the host key before the package comes, whose
// scripts may start the server.
func (s *sshd) prepare() error {
	policy := "# Written by banger.\n" + strings.Join(sshPolicy, "\n") + "\n"
	return errors.Join(
		putFile(s.agent.path(sshdPolicyFile), []byte(policy), 0o644),
		s.agent.setHostKey(proto.Config{HostKey: s.agent.present().hostKey}),
	)
}

// start makes the server serve, by banger's policy: now, and where the init has
// services, at each start.
func (s *sshd) start() error {
	if err := s.agent.setSSHPolicy(); err != nil {
		return err
	}
	// Debian's needs it, and its script makes it.
	if err := os.MkdirAll(s.agent.path("/run/sshd"), 0o755); err != nil {
		return fmt.Errorf("cannot make its directory: %w", err)
	}
	if err := s.run(s.agent.path(sshdProgram), "-t"); err != nil {
		return err
	}
	return s.serve()
}

// serve starts the server and waits until it listens, which it does a moment
// after the program that started it has ended. Then it writes /run/sshd.pid; one
// that has its file elsewhere is found when the time is over.
func (s *sshd) serve() error {
	changes, err := newWatch(s.agent.path("/run"))
	if err != nil {
		return err
	}
	defer changes.close()
	if err := s.startBy(s.agent.init); err != nil {
		return err
	}
	if err := changes.limit(time.Now().Add(listenLimit)); err != nil {
		return err
	}
	for waiting := true; ; {
		conn, err := net.DialTimeout("tcp", s.addr, sshdTimeout)
		if err == nil {
			return conn.Close()
		}
		if !waiting {
			return fmt.Errorf("it was started and does not listen: %w", err)
		}
		waiting = changes.next() == nil
	}
}

// startBy starts the server by the image's init, or by itself under one that
// has no services that are known.
func (s *sshd) startBy(init proto.InitKind) error {
	script := s.firstOf("/etc/init.d/ssh", "/etc/init.d/sshd")
	switch {
	case init == proto.InitSystemd:
		unit := s.firstOf("/usr/lib/systemd/system/ssh.service", "/usr/lib/systemd/system/sshd.service",
			"/lib/systemd/system/ssh.service", "/lib/systemd/system/sshd.service")
		if unit == "" {
			return errors.New("it has no service of systemd's")
		}
		return s.runAll([]string{"systemctl", "enable", filepath.Base(unit)}, []string{"systemctl", "restart", filepath.Base(unit)})
	case init == proto.InitOpenRC && script != "":
		return s.runAll([]string{"rc-update", "add", filepath.Base(script), "default"}, []string{"rc-service", filepath.Base(script), "restart"})
	case !s.isOurs():
		return s.run(s.agent.path(script), "restart")
	}
	return s.run(s.agent.path(sshdProgram))
}

// isOurs says whether it is the agent that starts the server: busybox's init
// has no services, and others have their scripts.
func (s *sshd) isOurs() bool {
	return s.agent.init == proto.InitBusybox ||
		s.agent.init == proto.InitOther && s.firstOf("/etc/init.d/ssh", "/etc/init.d/sshd") == ""
}

// firstOf gives the first of some files that is there.
func (s *sshd) firstOf(names ...string) string {
	for _, name := range names {
		if _, err := os.Stat(s.agent.path(name)); err == nil {
			return name
		}
	}
	return ""
}

func (s *sshd) runAll(commands ...[]string) error {
	for _, argv := range commands {
		if err := s.run(argv...); err != nil {
			return err
		}
	}
	return nil
}

// run runs a command as root's in the background; the log has what it says.
func (s *sshd) run(argv ...string) error {
	s.say("$ %s", strings.Join(argv, " "))
	env := s.agent.rootEnv(map[string]string{"DEBIAN_FRONTEND": "noninteractive"}, false)
	p, err := s.agent.start(order{argv: argv, env: env, dir: "/", noInput: true})
	if err != nil {
		return err
	}
	defer p.closeFiles()
	_ = unix.Setpriority(unix.PRIO_PGRP, p.proc.Pid, installPriority) // it may have ended
	timer := time.AfterFunc(installLimit, func() { p.hangUp(HangUpGrace) })
	defer timer.Stop()
	var pumps sync.WaitGroup
	for _, o := range p.outputs {
		pumps.Go(func() { s.note(o) })
	}
	pumps.Wait()
	<-p.done
	if p.status != 0 {
		return fmt.Errorf("%s ended with status %d", argv[0], p.status)
	}
	return nil
}

// note writes down what a command says, line by line.
func (s *sshd) note(src io.Reader) {
	lines := bufio.NewReaderSize(src, proto.MaxLine/2)
	for {
		line, err := lines.ReadSlice('\n')
		if text := strings.TrimSpace(string(line)); text != "" {
			s.say("%s", text)
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return
		}
	}
}
