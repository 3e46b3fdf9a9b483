package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/renameio/v2"
	"github.com/spf13/cobra"

	"github.com/banger-vm/banger/api"
)

// hostPrefix is before a VM's name where ssh names it.
const hostPrefix = "banger-"

type vmSSHConfigOptions struct {
	install    bool
	uninstall  bool
	forwardKey string
}

func newVMSSHConfigCommand(d *deps) *cobra.Command {
	var o vmSSHConfigOptions
	c := &cobra.Command{
		Use:   "ssh-config [vm]…",
		Short: "Let ssh, rsync, git and editors reach VMs by the name banger-<vm>",
		Long: `Print what an ssh configuration needs for VMs, all of them unless some are named, so
that ssh banger-<vm> works, and with it rsync, git, VS Code Remote and JetBrains Gateway.
Connections go through banger, not the network; the guests' host keys are known
beforehand.

--install writes that to a file of banger's own and makes ~/.ssh/config include it, in a
marked block at its beginning; nothing else of the file changes. VMs that are made later
work too; do it again to have editors list them. --uninstall takes all of it back.

No key of your ssh-agent reaches a guest. --forward-key lets it use one: the key does not
go in, but a guest with it can log in wherever the key can, while you are connected.`,
		Example: `  banger vm ssh-config --install
  ssh banger-sandbox
  rsync -a ./data banger-sandbox:/srv/
  git remote add sandbox banger-sandbox:/root/repo`,
		ValidArgsFunction: d.completeVMs,
		RunE:              func(c *cobra.Command, args []string) error { return runVMSSHConfig(c.Context(), o, d, args) },
	}
	c.Flags().BoolVar(&o.install, "install", false, "write it, and make ~/.ssh/config include it")
	c.Flags().BoolVar(&o.uninstall, "uninstall", false, "take back what --install did")
	c.Flags().StringVar(&o.forwardKey, "forward-key", "", "let the guests use this private `key` of yours, and no other")
	notBoth(c, "install", "uninstall")
	return c
}

func runVMSSHConfig(ctx context.Context, o vmSSHConfigOptions, d *deps, names []string) error {
	if o.uninstall {
		return d.uninstallSSHConfig()
	}
	if o.forwardKey != "" {
		if _, err := openKey(o.forwardKey); err != nil {
			return err
		}
		abs, err := filepath.Abs(o.forwardKey)
		if err != nil {
			return fmt.Errorf("cannot find the key: %w", err)
		}
		o.forwardKey = abs
	}
	if o.install && len(names) > 0 {
		return bad("banger vm ssh-config --install", "--install is for all VMs")
	}
	hosts, err := d.sshHosts(ctx, names)
	if err != nil {
		return err
	}
	if err := d.writeKnownHosts(hosts); err != nil {
		return err
	}
	if !o.install {
		return d.writeHosts(d.out, hosts, o.forwardKey)
	}
	return d.installSSHConfig(hosts, o.forwardKey)
}

// sshHost is a VM with what ssh needs of it.
type sshHost struct {
	vm   api.VM
	info api.SSHInfo
}

// sshHosts asks about the VMs of these names, or about all.
func (d *deps) sshHosts(ctx context.Context, names []string) ([]sshHost, error) {
	vms, err := d.client.VMs(ctx)
	if err != nil {
		return nil, err
	}
	if len(names) > 0 {
		vms = nil
		for _, name := range names {
			vm, err := d.client.VM(ctx, name)
			if err != nil {
				return nil, err
			}
			vms = append(vms, vm)
		}
	}
	var hosts []sshHost
	for _, vm := range vms {
		info, err := d.client.SSHInfo(ctx, vm.ID)
		var told *api.Error
		if len(names) == 0 && errors.As(err, &told) && told.Kind == api.KindNotFound {
			continue // deleted just now
		}
		if err != nil {
			return nil, err
		}
		hosts = append(hosts, sshHost{vm, info})
	}
	return hosts, nil
}

func (d *deps) sshDir() string         { return filepath.Join(d.paths.Config, "ssh") }
func (d *deps) knownHostsPath() string { return filepath.Join(d.sshDir(), "known_hosts") }
func (d *deps) sshConfigPath() string  { return filepath.Join(d.sshDir(), "config") }

// writeKnownHosts keeps the host keys of the VMs there are, which their daemon
// has made: ssh never trusts on first use. A VM's id is never another's, so
// what a shorter list leaves out does no harm.
func (d *deps) writeKnownHosts(hosts []sshHost) error {
	old, err := os.ReadFile(d.knownHostsPath())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot read the list of known hosts: %w", err)
	}
	var text strings.Builder
	for _, h := range hosts {
		for _, key := range h.info.HostKeys {
			fmt.Fprintf(&text, "%s %s\n", hostName(h.vm), key)
		}
	}
	for line := range strings.Lines(string(old)) {
		if !strings.Contains(text.String(), line) {
			text.WriteString(line)
		}
	}
	return writeOwn(d.knownHostsPath(), trimLines(text.String(), maxKnownHosts))
}

// maxKnownHosts bounds the list, of which the first lines are the newest.
const maxKnownHosts = 1000

func trimLines(text string, most int) string {
	lines := strings.SplitAfterN(text, "\n", most+1)
	return strings.Join(lines[:min(len(lines), most)], "")
}

// writeOwn replaces a file of banger's own.
func writeOwn(path, text string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("cannot make %s: %w", filepath.Dir(path), err)
	}
	if err := renameio.WriteFile(path, []byte(text), 0o600); err != nil {
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	return nil
}

// writeHosts writes a block for each VM.
func (d *deps) writeHosts(w io.Writer, hosts []sshHost, forwardKey string) error {
	var text strings.Builder
	for _, h := range hosts {
		proxy, agent := "ssh-proxy ", "  ForwardAgent no\n"
		if forwardKey != "" {
			socket := filepath.Join(d.paths.Runtime, "ssh-"+h.vm.ID+".sock")
			proxy += strings.ReplaceAll("--agent "+quote(socket)+" --forward-key "+quote(forwardKey)+" ", "%", "%%")
			agent = fmt.Sprintf("  IdentityAgent %s\n  ForwardAgent yes\n", configWord(socket))
		}
		fmt.Fprintf(&text, "Host %s%s\n", hostPrefix, h.vm.Name)
		fmt.Fprintf(&text, "  HostName %s\n", hostName(h.vm))
		d.writeOptions(&text, h.info, proxy+h.vm.ID)
		fmt.Fprintf(&text, "  UserKnownHostsFile %s\n", configWord(d.knownHostsPath()))
		text.WriteString(agent + "\n")
	}
	_, err := io.WriteString(w, text.String())
	return err
}

// writeOptions writes what all VMs need, whatever else is configured.
func (d *deps) writeOptions(text *strings.Builder, info api.SSHInfo, proxy string) {
	fmt.Fprintf(text, "  User %s\n", info.User)
	fmt.Fprintf(text, "  IdentityFile %s\n", configWord(info.KeyPath))
	fmt.Fprintf(text, "  ProxyCommand %s vm %s\n", strings.ReplaceAll(quote(d.self), "%", "%%"), proxy)
	for _, option := range []string{
		"IdentitiesOnly yes", "GlobalKnownHostsFile /dev/null", "StrictHostKeyChecking yes", "UpdateHostKeys no",
		"PasswordAuthentication no", "KbdInteractiveAuthentication no",
	} {
		fmt.Fprintf(text, "  %s\n", option)
	}
}

// configWord writes a path as one word of an ssh configuration.
func configWord(path string) string {
	path = strings.ReplaceAll(path, "%", "%%")
	if strings.ContainsAny(path, " \t#'\"\\") {
		return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(path) + `"`
	}
	return path
}

// installSSHConfig writes banger's own file and has the user's include it. The
// last block is for VMs that are made later.
func (d *deps) installSSHConfig(hosts []sshHost, forwardKey string) error {
	var text strings.Builder
	text.WriteString("# written by `banger vm ssh-config --install`; changes are lost at the next\n\n")
	if err := d.writeHosts(&text, hosts, forwardKey); err != nil {
		return err
	}
	info := api.SSHInfo{User: "root", KeyPath: d.paths.SSHKey()}
	if len(hosts) > 0 {
		info = hosts[0].info
	}
	fmt.Fprintf(&text, "Host %s*\n", hostPrefix)
	d.writeOptions(&text, info, "ssh-proxy --host %n")
	fmt.Fprintf(&text, "  KnownHostsCommand %s vm ssh-known-hosts %%n\n", strings.ReplaceAll(quote(d.self), "%", "%%"))
	text.WriteString("  UserKnownHostsFile /dev/null\n  ForwardAgent no\n")
	if err := writeOwn(d.sshConfigPath(), text.String()); err != nil {
		return err
	}
	return editUserConfig(func(old string) string { return includeBlock(d.sshConfigPath()) + withoutInclude(old) })
}

func (d *deps) uninstallSSHConfig() error {
	if err := editUserConfig(withoutInclude); err != nil {
		return err
	}
	for _, path := range []string{d.sshConfigPath(), d.knownHostsPath()} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("cannot remove %s: %w", path, err)
		}
	}
	return nil
}

// The lines around what banger writes into ~/.ssh/config.
const (
	includeBegin = "# banger begin: `banger vm ssh-config --uninstall` takes this out\n"
	includeEnd   = "# banger end\n\n"
)

// includeBlock must stand before any Host of the file: within one it would
// count for that host alone.
func includeBlock(path string) string {
	return includeBegin + "Include " + configWord(path) + "\n" + includeEnd
}

// withoutInclude takes the block out, wherever it is; one without its end is
// left, since nobody knows where it ends.
func withoutInclude(text string) string {
	begin := strings.Index("\n"+text, "\n"+includeBegin)
	if begin < 0 {
		return text
	}
	end := strings.Index(text[begin:], strings.TrimSuffix(includeEnd, "\n"))
	if end < 0 {
		return text
	}
	rest := text[begin+end+len(includeEnd)-1:]
	return text[:begin] + strings.TrimPrefix(rest, "\n")
}

// maxUserConfig is more than anybody writes.
const maxUserConfig = 4 << 20

// editUserConfig changes ~/.ssh/config as a whole, or leaves it as it is. A link
// there stays one.
func editUserConfig(edit func(string) string) error {
	home, err := os.UserHomeDir()
	if err != nil {
		return fmt.Errorf("cannot find your home: %w", err)
	}
	path := filepath.Join(home, ".ssh", "config")
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target
	}
	mode := fs.FileMode(0o600)
	info, err := os.Stat(path)
	switch {
	case err == nil && (!info.Mode().IsRegular() || info.Size() > maxUserConfig):
		return bad("", "%s is not an ssh configuration", path)
	case err == nil:
		mode = info.Mode().Perm()
	case !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("cannot look at your ssh configuration: %w", err)
	}
	old, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot read your ssh configuration: %w", err)
	}
	changed := edit(string(old))
	if changed == string(old) {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("cannot make %s: %w", filepath.Dir(path), err)
	}
	if err := renameio.WriteFile(path, []byte(changed), mode, renameio.IgnoreUmask()); err != nil {
		return fmt.Errorf("cannot write your ssh configuration: %w", err)
	}
	return nil
}

// newVMSSHKnownHostsCommand is what ssh itself calls for the key of a VM that is
// newer than the installed configuration.
func newVMSSHKnownHostsCommand(d *deps) *cobra.Command {
	return &cobra.Command{
		Use:    "ssh-known-hosts <host>",
		Short:  "Print a VM's host keys for ssh (for ssh's KnownHostsCommand)",
		Hidden: true,
		Args:   one("a host"),
		RunE: func(c *cobra.Command, args []string) error {
			info, err := d.client.SSHInfo(c.Context(), strings.TrimPrefix(args[0], hostPrefix))
			if err != nil {
				return err
			}
			for _, key := range info.HostKeys {
				fmt.Fprintf(d.out, "%s %s\n", args[0], key)
			}
			return nil
		},
	}
}
