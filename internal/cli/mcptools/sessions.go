package mcptools

import (
	"context"
	"errors"
	"io"
	"strings"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/banger-vm/banger/api"
)

// session is what a model needs to know of a session.
type session struct {
	Name       string   `json:"name"`
	Argv       []string `json:"argv"`
	State      string   `json:"state" jsonschema:"running or ended"`
	ExitStatus *int     `json:"exit_status,omitempty" jsonschema:"of one that has ended"`
}

func describeSession(s api.Session) session {
	return session{Name: s.Name, Argv: append([]string{}, s.Argv...), State: string(s.State), ExitStatus: s.Status}
}

type sessions struct {
	Sessions []session `json:"sessions"`
}

type startSessionInput struct {
	Sandbox string            `json:"sandbox" jsonschema:"the sandbox's name"`
	Name    string            `json:"name" jsonschema:"a name for the session"`
	Command string            `json:"command" jsonschema:"a command line for sh"`
	Cwd     string            `json:"cwd,omitempty" jsonschema:"the directory to run it in; root's home when left out"`
	Env     map[string]string `json:"env,omitempty" jsonschema:"environment variables to set"`
}

type sessionInput struct {
	Sandbox string `json:"sandbox" jsonschema:"the sandbox's name"`
	Session string `json:"session" jsonschema:"the session's name"`
}

type sessionOutputInput struct {
	Sandbox  string `json:"sandbox" jsonschema:"the sandbox's name"`
	Session  string `json:"session" jsonschema:"the session's name"`
	Position uint64 `json:"position,omitempty" jsonschema:"where to begin: next_position of the call before"`
}

type sessionOutput struct {
	Stdout string `json:"stdout"`
	Stderr string `json:"stderr"`
	Next   uint64 `json:"next_position" jsonschema:"what comes later is from here on"`
	More   bool   `json:"more,omitempty" jsonschema:"there is more already"`
	Lost   uint64 `json:"lost_bytes,omitempty" jsonschema:"so much is not kept any more"`
}

type sendSessionInput struct {
	Sandbox string `json:"sandbox" jsonschema:"the sandbox's name"`
	Session string `json:"session" jsonschema:"the session's name"`
	Text    string `json:"text,omitempty" jsonschema:"what the command reads; a line needs its \\n"`
	End     bool   `json:"end,omitempty" jsonschema:"its input ends after that"`
}

func (t tools) addSessions(s *mcp.Server) {
	yes, no := true, false
	mcp.AddTool(s, &mcp.Tool{Name: "session_start", Description: "Start a long-running command in a sandbox, such as a server, that goes on by itself.",
		Annotations: &mcp.ToolAnnotations{DestructiveHint: &yes, OpenWorldHint: &yes}}, tool(t.startSession))
	mcp.AddTool(s, &mcp.Tool{Name: "session_list", Description: "List a sandbox's sessions, also those that have ended.",
		Annotations: &mcp.ToolAnnotations{ReadOnlyHint: true, OpenWorldHint: &no}}, tool(t.listSessions))
	mcp.AddTool(s, &mcp.Tool{Name: "session_output", Description: "Read what a session has printed so far, from a position on.",
		Annotations: &mcp.ToolAnnotations{ReadOnlyHint: true, OpenWorldHint: &no}}, tool(t.readSession))
	mcp.AddTool(s, &mcp.Tool{Name: "session_send", Description: "Send input to a session.",
		Annotations: &mcp.ToolAnnotations{DestructiveHint: &yes, OpenWorldHint: &yes}}, tool(t.sendSession))
	mcp.AddTool(s, &mcp.Tool{Name: "session_stop", Description: "End a session's command, by force after 10 seconds, and wait for its end.",
		Annotations: &mcp.ToolAnnotations{DestructiveHint: &yes, OpenWorldHint: &no}}, tool(t.stopSession))
}

func (t tools) startSession(ctx context.Context, in startSessionInput) (session, error) {
	s, err := t.c.StartSession(ctx, in.Sandbox, api.StartSession{
		Name: in.Name, Argv: []string{"/bin/sh", "-c", in.Command}, Cwd: in.Cwd, Env: in.Env, Stdin: api.StdinPipe,
	})
	return describeSession(s), err
}

func (t tools) listSessions(ctx context.Context, in named) (sessions, error) {
	found, err := t.c.Sessions(ctx, in.Sandbox)
	list := sessions{Sessions: []session{}}
	for _, s := range found {
		list.Sessions = append(list.Sessions, describeSession(s))
	}
	return list, err
}

// readSession gives what is there, as much as a model can take.
func (t tools) readSession(ctx context.Context, in sessionOutputInput) (sessionOutput, error) {
	a, err := t.c.AttachSession(ctx, in.Sandbox, in.Session, api.AttachSession{From: in.Position, Past: true, Ended: true}, false)
	if err != nil {
		return sessionOutput{}, err
	}
	defer a.Close()
	out := sessionOutput{Next: in.Position}
	var stdout, stderr strings.Builder
	for taken := 0; taken < maxOutput; {
		o, err := a.Next()
		if errors.Is(err, io.EOF) {
			out.Stdout, out.Stderr = valid(stdout.String()), valid(stderr.String())
			return out, nil
		}
		if err != nil {
			return sessionOutput{}, err
		}
		to := &stdout
		if o.Stderr {
			to = &stderr
		}
		to.Write(o.Data)
		taken += len(o.Data)
		out.Lost += o.Lost
		out.Next = max(out.Next, o.Position+o.Lost+uint64(len(o.Data)))
	}
	out.Stdout, out.Stderr, out.More = valid(stdout.String()), valid(stderr.String()), true
	return out, nil
}

func (t tools) sendSession(ctx context.Context, in sendSessionInput) (nothing, error) {
	return nothing{}, t.c.SendSession(ctx, in.Sandbox, in.Session, api.SendSession{Data: []byte(in.Text), EOF: in.End})
}

// stopGrace is how long a session may take to end when it is asked to.
const stopGrace = 10 * time.Second

func (t tools) stopSession(ctx context.Context, in sessionInput) (session, error) {
	if err := t.c.StopSession(ctx, in.Sandbox, in.Session, api.StopSession{Grace: stopGrace}); err != nil {
		return session{}, err
	}
	s, err := t.c.WaitSession(ctx, in.Sandbox, in.Session)
	return describeSession(s), err
}
