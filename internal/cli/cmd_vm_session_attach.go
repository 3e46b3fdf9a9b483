package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/client"
	"github.com/banger-vm/banger/internal/config"
)

// screenful is how much of a terminal session's past is shown to a terminal:
// the program then paints anew.
const screenful = 256 << 10

type vmSessionAttachOptions struct {
	vm, session string
	raw         bool
	noInput     bool
	detachKeys  string
	tail        string
}

func newVMSessionAttachCommand(d *deps) *cobra.Command {
	var o vmSessionAttachOptions
	c := &cobra.Command{
		Use:   "attach <vm> <session>",
		Short: "Follow a session and type into it",
		Long: `Follow a session: first what it printed, then what comes. Several can be attached at
once. When the connection is lost, because bangerd was restarted for example, attach
goes on by itself where it was, and neither direction loses a byte.

In a terminal session (--stdin-mode pty) the keys ctrl-p ctrl-q detach; the setting
detach_keys or --detach-keys chooses others. Elsewhere Ctrl-C and the end of input on a
terminal do. Input that is not a terminal may end: the output goes on.

--raw is a bridge for programs: the session's bytes and nothing else on the standard
streams, and an end when either side ends.

Exit status: the session's own when it ends; 0 after detaching. A session that has ended
can't be attached to: ` + "`banger vm session logs`" + ` shows what it printed.`,
		Args:              sessionArgs(&o.vm, &o.session),
		ValidArgsFunction: d.completeSessions,
		RunE:              func(c *cobra.Command, _ []string) error { return runVMSessionAttach(c.Context(), o, d) },
	}
	c.Flags().BoolVar(&o.raw, "raw", false, "carry bytes only, for programs")
	c.Flags().BoolVar(&o.noInput, "no-stdin", false, "only watch")
	c.Flags().StringVar(&o.detachKeys, "detach-keys", "", "the `keys` that detach, like ctrl-p,ctrl-q; \"none\" for none")
	c.Flags().StringVar(&o.tail, "tail", "", "begin at most this `size` before the end; 0 shows nothing of the past")
	return c
}

// sessionArgs takes a VM and a session.
func sessionArgs(vm, session *string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) != 2 {
			return usage(c, fmt.Sprintf("%s takes a VM and a session, not %d arguments", c.CommandPath(), len(args)))
		}
		*vm, *session = args[0], args[1]
		return nil
	}
}

func runVMSessionAttach(ctx context.Context, o vmSessionAttachOptions, d *deps) error {
	keys, err := o.keys()
	if err != nil {
		return err
	}
	interactive := !o.raw && isTerminal(d.in) && isTerminal(d.out)
	req, err := o.request(d, interactive)
	if err != nil {
		return err
	}
	ctx, leave := context.WithCancel(ctx)
	defer leave()
	a, err := d.client.AttachSession(ctx, o.vm, o.session, req, !o.noInput)
	if err != nil {
		return err
	}
	defer a.Close()
	seat := &seat{deps: d, attachment: a, options: o, leave: leave}
	if interactive && a.Session().Stdin == api.StdinPTY && !o.noInput {
		restore, err := raw(d.in)
		if err != nil {
			return fmt.Errorf("cannot hand the terminal over: %w", err)
		}
		defer restore()
		followSize(ctx, d.out, func(rows, cols uint16) error { a.Resize(rows, cols); return nil })
		if keys != nil {
			seat.keyboard = openKeyboard(d.in, (&detachKeys{keys: keys}).sift, seat.detachSoon)
		}
	}
	if !o.noInput && a.Session().Stdin != api.StdinNull {
		go seat.typeIn()
	}
	err = seat.watch(ctx)
	if seat.keyboard != nil && seat.detached.Load() {
		fmt.Fprintf(d.errs, "\r\ndetached: `banger vm session attach %s %s` comes back\r\n", o.vm, o.session)
	}
	return err
}

func (o vmSessionAttachOptions) keys() ([]byte, error) {
	text := o.detachKeys
	if text == "" {
		settings, err := config.Load(config.Options{})
		if err != nil {
			return nil, err
		}
		text = settings.DetachKeys
	}
	keys, err := config.ParseKeys(text)
	if err != nil {
		return nil, bad("write them like ctrl-p,ctrl-q", "--detach-keys: %v", err)
	}
	return keys, nil
}

func (o vmSessionAttachOptions) request(d *deps, interactive bool) (api.AttachSession, error) {
	var req api.AttachSession
	if interactive {
		req.Rows, req.Cols = size(d.out)
		past := uint64(screenful)
		req.Tail = &past
	}
	if o.tail != "" {
		bytes, err := config.ParseBytes(o.tail)
		if err != nil {
			return req, bad("write it like 64K or 1M", "--tail: %v", err)
		}
		past := uint64(bytes)
		req.Tail = &past
	}
	return req, nil
}

// seat is a person or a program at a session.
type seat struct {
	*deps
	attachment *client.Attachment
	options    vmSessionAttachOptions
	keyboard   *keyboard // nil where no keys detach
	leave      context.CancelFunc
	detached   atomic.Bool
}

func (s *seat) detach() {
	s.detached.Store(true)
	s.attachment.Close()
	s.leave()
}

// lastWords is how long what was typed before the detaching keys may take to get
// away.
const lastWords = time.Second

// detachSoon is for the detaching keys: typeIn detaches when all before them is
// sent, but the session may have stopped taking it.
func (s *seat) detachSoon() { time.AfterFunc(lastWords, s.detach) }

// input is what the session gets.
func (s *seat) input() io.Reader {
	if s.keyboard != nil {
		return s.keyboard
	}
	return s.in
}

// typeIn sends what comes on standard input.
func (s *seat) typeIn() {
	in, buf := s.input(), make([]byte, 64<<10)
	for {
		n, err := in.Read(buf)
		if n > 0 {
			if _, err := s.attachment.Write(buf[:n]); err != nil {
				return // watch tells why
			}
		}
		if err != nil && (s.options.raw || isTerminal(s.in)) {
			s.detach()
		}
		if err != nil {
			return
		}
	}
}

// watch shows what comes, until the session's end or that of the attachment.
func (s *seat) watch(ctx context.Context) error {
	end, err := s.attachment.Copy(s.out, s.errs, func(bytes uint64) { tellLoss(s.errs, bytes) })
	switch {
	case s.detached.Load():
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return err
	}
	return sessionStatus(end)
}

func tellLoss(w *os.File, bytes uint64) {
	end := "\n"
	if isTerminal(w) {
		end = "\r\n"
	}
	fmt.Fprintf(w, "banger: %d bytes of its output are not kept any more%s", bytes, end)
}

// sessionStatus gives a session's exit status as a command's own.
func sessionStatus(s api.Session) error {
	switch {
	case s.Status == nil && s.State == api.SessionEnded:
		return &api.Error{Kind: api.KindGuest, Message: fmt.Sprintf("the session %s has ended, with no status: %s", s.Name, s.Reason)}
	case s.Status != nil && *s.Status != 0:
		return exitStatus(*s.Status)
	}
	return nil
}

// readAtMost reads all of r, which must not be longer than limit.
func readAtMost(r io.Reader, limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, fmt.Errorf("cannot read standard input: %w", err)
	}
	if int64(len(data)) > limit {
		return nil, bad("`banger vm session attach --raw` carries any amount", "standard input is longer than %d bytes, the most that is sent in one piece", limit)
	}
	return data, nil
}
