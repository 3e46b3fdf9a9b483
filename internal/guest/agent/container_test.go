package agent_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/banger-vm/banger/internal/guest/proto"
)

// TestContainer runs commands as an image's configuration says.
func TestContainer(t *testing.T) {
	g := start(t, proto.InitNone)
	dir := t.TempDir()
	configure := func(c proto.Container) {
		t.Helper()
		if err := g.Configure(t.Context(), proto.Config{Env: map[string]string{"A": "host"}, Container: &c}); err != nil {
			t.Fatal(err)
		}
	}
	configure(proto.Container{Env: []string{"A=image", "B=image", "C=image=1"}, Cwd: dir, Argv: []string{"sh", "-c", "pwd; echo $A $B $C"}})
	for _, test := range []struct {
		exec proto.Exec
		want string
	}{
		{proto.Exec{Container: true}, dir + "\nhost image image=1\n"},
		{proto.Exec{Container: true, Cwd: "/", Env: map[string]string{"B": "asked"}, Argv: []string{"sh", "-c", "pwd; echo $B"}}, "/\nasked\n"},
		{proto.Exec{Argv: []string{"sh", "-c", "echo $A-$B"}}, "host-image\n"},
	} {
		if got := g.run(t, test.exec, ""); got.stdout != test.want || got.status != 0 {
			t.Errorf("%+v: %+v", test.exec, got)
		}
	}

	configure(proto.Container{User: "nobody-here"})
	var e *proto.ExecError
	if got := g.run(t, proto.Exec{Container: true, Argv: []string{"true"}}, ""); !errors.As(got.err, &e) || !strings.Contains(e.Message, "nobody-here") {
		t.Errorf("an unknown user: %+v", got)
	}
	if _, err := g.Exec(t.Context(), proto.Exec{Container: true}); err == nil {
		t.Error("an image without a command runs something")
	}
	if err := g.Configure(t.Context(), proto.Config{Container: &proto.Container{Cwd: "relative"}}); err == nil {
		t.Error("a relative directory was accepted")
	}
}

// TestContainerLogins looks at what sessions and logins get of an image's
// configuration, and at what an sshd and a login shell of its own find.
func TestContainerLogins(t *testing.T) {
	g := start(t, proto.InitSystemd)
	signer, _, line := newKey(t)
	_, hostKey, hostLine := newKey(t)
	dir := t.TempDir()
	write(t, filepath.Join(g.root, "etc/passwd"), "root:x:0:0:root:/:/bin/sh\n")
	err := g.Configure(t.Context(), proto.Config{
		AuthorizedKeys: []string{line}, HostKey: hostKey, Env: map[string]string{"A": "host"},
		Container: &proto.Container{Env: []string{"A=image", "B=it's", "C=two\nlines", "no-name=x"}, Cwd: dir},
	})
	if err != nil {
		t.Fatal(err)
	}
	spec := proto.SessionSpec{Name: "s", Argv: []string{"sh", "-c", `echo "$PWD $A $B $C"`}, Stdin: proto.StdinNull}
	if _, err := g.StartSession(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	if _, err := g.WaitSession(t.Context(), "s"); err != nil {
		t.Fatal(err)
	}
	if got, want := g.attach(t, proto.Attach{Name: "s", Ended: true, Past: true}).rest(t), dir+" host it's two\nlines\n"; got != want {
		t.Errorf("a session printed %q, want %q", got, want)
	}
	client, err := g.login(t, "root", signer, hostLine)
	if err != nil {
		t.Fatal(err)
	}
	login, err := client.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := login.Output(`echo "$PWD $A $B"`); string(got) != "/ host it's\n" || err != nil {
		t.Errorf("a login printed %q, %v", got, err)
	}
	for name, want := range map[string]string{
		"etc/environment":         "A=host\nB=it's\n",
		"etc/profile.d/banger.sh": "export A='host'\nexport B='it'\\''s'\n",
		"run/systemd/system/service.d/50-banger-environment.conf": "[Service]\nEnvironment=\"A=host\"\n",
	} {
		if got := read(t, filepath.Join(g.root, name)); !strings.Contains(got, want) {
			t.Errorf("%s: %q", name, got)
		}
	}
}

// TestLogins looks at what becomes of an image that lets others in.
func TestLogins(t *testing.T) {
	const begin, end = "# banger begin: written at each start\n", "# banger end\n"
	const policy = begin + "PermitRootLogin yes\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nStrictModes no\n" + end
	const included = "Include /etc/ssh/sshd_config.d/*.conf\nUsePAM yes\n"
	tests := []struct {
		name       string
		have, want map[string]string
	}{
		{"open", map[string]string{
			"etc/ssh/sshd_config": "PermitRootLogin no\n", "etc/shadow": "root::1:0:99999:7:::\nuser:$6$x:1::::::\n", "etc/passwd": "root:x:0:0:root:/root:/bin/sh\n",
		}, map[string]string{
			"etc/ssh/sshd_config": policy + "PermitRootLogin no\n", "etc/shadow": "root:*:1:0:99999:7:::\nuser:$6$x:1::::::\n", "etc/passwd": "root:x:0:0:root:/root:/bin/sh\n",
		}},
		{"no shadow", map[string]string{"etc/passwd": "root:secret:0:0:root:/root:/bin/sh"}, map[string]string{"etc/passwd": "root:*:0:0:root:/root:/bin/sh"}},
		{"includes nothing", map[string]string{"etc/ssh/sshd_config": included}, map[string]string{"etc/ssh/sshd_config": policy + included}},
		{"includes it", map[string]string{
			"etc/ssh/sshd_config": "# a comment\n\n" + included, "etc/ssh/sshd_config.d/00-banger.conf": "PermitRootLogin yes\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nStrictModes no\n",
		}, map[string]string{"etc/ssh/sshd_config": "# a comment\n\n" + included}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			g := start(t, proto.InitNone)
			for name, text := range test.have {
				write(t, filepath.Join(g.root, name), text)
			}
			if shadow := filepath.Join(g.root, "etc/shadow"); test.have["etc/shadow"] != "" {
				if err := os.Chmod(shadow, 0o640); err != nil {
					t.Fatal(err)
				}
			}
			for range 2 {
				if err := g.Configure(t.Context(), proto.Config{AuthorizedKeys: []string{}}); err != nil {
					t.Fatal(err)
				}
			}
			for name, want := range test.want {
				if got := read(t, filepath.Join(g.root, name)); got != want {
					t.Errorf("%s: %q", name, got)
				}
			}
			if info, err := os.Stat(filepath.Join(g.root, "etc/shadow")); err == nil && info.Mode().Perm() != 0o640 {
				t.Errorf("shadow has mode %v", info.Mode())
			}
		})
	}
}
