package daemon

import (
	"errors"
	"net/http"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/guest/host"
	"github.com/banger-vm/banger/internal/session"
)

func (d *Daemon) getSessions(w http.ResponseWriter, r *http.Request) error {
	list, err := d.Sessions.List(r.Context(), r.PathValue("vm"))
	if err != nil {
		return err
	}
	return answer(w, list)
}

func (d *Daemon) postSessions(w http.ResponseWriter, r *http.Request) error {
	var req api.StartSession
	if err := read(w, r, &req); err != nil {
		return err
	}
	s, err := d.Sessions.Start(r.Context(), r.PathValue("vm"), req)
	if err != nil {
		return err
	}
	d.Log.Info("session start", "vm", r.PathValue("vm"), "session", s.Name)
	return answer(w, s)
}

func (d *Daemon) getSession(w http.ResponseWriter, r *http.Request) error {
	s, err := d.Sessions.Show(r.Context(), r.PathValue("vm"), r.PathValue("session"))
	if err != nil {
		return err
	}
	return answer(w, s)
}

func (d *Daemon) deleteSession(w http.ResponseWriter, r *http.Request) error {
	if err := d.Sessions.Delete(r.Context(), r.PathValue("vm"), r.PathValue("session")); err != nil {
		return err
	}
	return answer(w, struct{}{})
}

func (d *Daemon) postSessionSend(w http.ResponseWriter, r *http.Request) error {
	var req api.SendSession
	if err := read(w, r, &req); err != nil {
		return err
	}
	if err := d.Sessions.Send(r.Context(), r.PathValue("vm"), r.PathValue("session"), req); err != nil {
		return err
	}
	return answer(w, struct{}{})
}

func (d *Daemon) postSessionStop(w http.ResponseWriter, r *http.Request) error {
	var req api.StopSession
	if err := read(w, r, &req); err != nil {
		return err
	}
	if err := d.Sessions.Stop(r.Context(), r.PathValue("vm"), r.PathValue("session"), req); err != nil {
		return err
	}
	return answer(w, struct{}{})
}

func (d *Daemon) postSessionSignal(w http.ResponseWriter, r *http.Request) error {
	var req api.SignalSession
	if err := read(w, r, &req); err != nil {
		return err
	}
	if err := d.Sessions.Signal(r.Context(), r.PathValue("vm"), r.PathValue("session"), req); err != nil {
		return err
	}
	return answer(w, struct{}{})
}

// postSessionWait answers when the session has ended.
func (d *Daemon) postSessionWait(w http.ResponseWriter, r *http.Request) error {
	s, err := d.Sessions.Wait(r.Context(), r.PathValue("vm"), r.PathValue("session"))
	if err != nil {
		return err
	}
	return answer(w, s)
}

// postSessionAttach turns the connection into one of a session's clients.
func (d *Daemon) postSessionAttach(w http.ResponseWriter, r *http.Request) error {
	var req api.AttachSession
	if err := read(w, r, &req); err != nil {
		return err
	}
	name := r.PathValue("session")
	guest, attached, err := d.Sessions.Attach(r.Context(), r.PathValue("vm"), name, req)
	if err != nil {
		return err
	}
	client, err := upgrade(w, r, api.UpgradeSession)
	if err != nil {
		guest.Close()
		return err
	}
	d.stream(client, func() {
		if session.Accept(client, attached) != nil {
			client.Close()
			guest.Close()
			return
		}
		if err := host.RelaySession(client, guest, name); err != nil && !errors.Is(err, host.ErrClientGone) {
			d.Log.Info("a client of a session was lost", "vm", r.PathValue("vm"), "session", name, "error", err)
		}
	})
	return nil
}
