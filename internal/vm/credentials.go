package vm

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/credential"
	"github.com/banger-vm/banger/internal/guest/host"
	"github.com/banger-vm/banger/internal/guest/proto"
	"github.com/banger-vm/banger/internal/progress"
)

// SyncCredentials gives a running VM the credentials that its host has now.
func (m *Manager) SyncCredentials(ctx context.Context, nameOrID string) (api.Credentials, error) {
	v, err := m.find(nameOrID)
	if err != nil {
		return api.Credentials{}, err
	}
	if v.record().Spec.NoCredentials {
		return api.Credentials{}, bad(fmt.Sprintf("VM %s was made with --no-credentials", v.record().Name), "a VM that is made without it gets them")
	}
	if m.Credentials == nil {
		return api.Credentials{}, bad("the configuration says credential_sync = false", "take that out of the config file and run banger daemon restart")
	}
	v, r, err := m.reachable(ctx, nameOrID, api.WaitAgent)
	if err != nil {
		return api.Credentials{}, err
	}
	synced, err := v.syncCredentials(ctx, r.agent)
	return synced, v.guestError(err)
}

// introduce is configure for a guest that has just booted: it gets the
// credentials too. Where that fails the guest works all the same, and its
// person is told. Who waits for the agent alone has a command for it, which
// goes before the image's init: the two would only hold each other up.
func (v *machine) introduce(ctx context.Context, r *run, agent *host.Agent, wait api.Wait) error {
	c, err := v.guestConfig()
	if err != nil {
		return err
	}
	c.CommandFirst = wait == api.WaitAgent
	ctx, cancel := context.WithTimeout(ctx, configTimeout)
	defer cancel()
	if err := agent.Configure(ctx, c); err != nil {
		return err
	}
	synced, err := v.syncCredentials(ctx, agent)
	var told []string
	for _, refused := range synced.Refused {
		told = append(told, fmt.Sprintf("the credential %s does not go into the guest: %s", refused.Path, refused.Why))
	}
	if err != nil {
		told = append(told, err.Error())
	}
	for _, text := range told {
		v.log.add("daemon", text)
	}
	r.note(func() { r.told = told })
	return nil
}

// warn reports what the guest's introduction had to tell.
func (r *run) warn(report progress.Func) {
	r.mu.Lock()
	told := r.told
	r.mu.Unlock()
	for _, text := range told {
		report(progress.Event{Step: "credentials", Detail: text, Warning: true})
	}
}

// syncCredentials makes the guest have what the host has, and takes back what
// it has no longer. The record knows beforehand what the guest may have.
func (v *machine) syncCredentials(ctx context.Context, agent *host.Agent) (api.Credentials, error) {
	synced := api.Credentials{Given: []string{}}
	wanted, refused := v.readCredentials()
	synced.Refused = refused
	before := v.record().Credentials
	var paths []string
	for _, c := range wanted {
		paths = append(paths, c.Path)
	}
	for _, path := range before {
		if !slices.Contains(paths, path) {
			wanted = append(wanted, proto.Credential{Path: path})
		}
	}
	if len(wanted) == 0 {
		return synced, nil
	}
	if err := v.recordCredentials(union(before, paths)); err != nil {
		return synced, err
	}
	var errs []error
	for _, c := range wanted {
		err := agent.Credential(ctx, c)
		if err == nil && len(c.Data) > 0 {
			synced.Given = append(synced.Given, c.Path)
		}
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return synced, err
	}
	return synced, v.recordCredentials(paths)
}

func (v *machine) readCredentials() (found []proto.Credential, refused []api.Refused) {
	if v.record().Spec.NoCredentials {
		return nil, nil
	}
	for _, file := range v.m.Credentials {
		data, err := file.Read()
		switch {
		case credential.IsMissing(err):
		case err != nil:
			refused = append(refused, api.Refused{Path: file.Host, Why: err.Error()})
		case len(data) > 0:
			found = append(found, proto.Credential{Path: file.Guest, Data: data})
		}
	}
	return found, refused
}

func (v *machine) recordCredentials(paths []string) error {
	if slices.Equal(v.record().Credentials, paths) {
		return nil
	}
	return v.change(func(r *Record) error { r.Credentials = paths; return nil })
}

func union(a, b []string) []string {
	both := slices.Clone(a)
	for _, s := range b {
		if !slices.Contains(both, s) {
			both = append(both, s)
		}
	}
	return both
}
