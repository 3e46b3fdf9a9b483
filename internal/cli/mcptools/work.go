package mcptools

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/banger-vm/banger/api"
)

const (
	// maxOutput is how many bytes of each of a command's streams, and of a file,
	// a model gets. More would fill its context.
	maxOutput = 256 << 10
	// defaultTimeout and maxTimeout bound a command.
	defaultTimeout = 2 * time.Minute
	maxTimeout     = time.Hour
)

type runInput struct {
	Sandbox        string            `json:"sandbox" jsonschema:"the sandbox's name"`
	Command        string            `json:"command" jsonschema:"a command line for sh"`
	Cwd            string            `json:"cwd,omitempty" jsonschema:"the directory to run it in; root's home when left out"`
	Env            map[string]string `json:"env,omitempty" jsonschema:"environment variables to set"`
	Stdin          string            `json:"stdin,omitempty" jsonschema:"what the command reads"`
	TimeoutSeconds int               `json:"timeout_seconds,omitempty" jsonschema:"how long it may take, 120 when left out, 3600 at most; then it is ended"`
}

type runOutput struct {
	ExitStatus int    `json:"exit_status" jsonschema:"as a shell gives it; -1 when the time was over"`
	Stdout     string `json:"stdout"`
	Stderr     string `json:"stderr"`
	TimedOut   bool   `json:"timed_out,omitempty" jsonschema:"the command was ended because its time was over"`
	Cut        bool   `json:"cut,omitempty" jsonschema:"the middle of an output was left out, because it was too long"`
}

type readInput struct {
	Sandbox string `json:"sandbox" jsonschema:"the sandbox's name"`
	Path    string `json:"path" jsonschema:"the file; below root's home unless it is absolute"`
	Offset  int64  `json:"offset,omitempty" jsonschema:"the byte to begin at"`
}

type readOutput struct {
	Text   string `json:"text,omitempty" jsonschema:"the content, if it is UTF-8"`
	Base64 string `json:"base64,omitempty" jsonschema:"the content, if it is not"`
	Next   int64  `json:"next_offset,omitempty" jsonschema:"there is more, from this byte on"`
}

type writeInput struct {
	Sandbox    string `json:"sandbox" jsonschema:"the sandbox's name"`
	Path       string `json:"path" jsonschema:"the file; below root's home unless it is absolute; its directory must be there"`
	Text       string `json:"text,omitempty" jsonschema:"the whole content"`
	Base64     string `json:"base64,omitempty" jsonschema:"the whole content, where it is no text"`
	Executable bool   `json:"executable,omitempty"`
}

type writeOutput struct {
	Bytes int64 `json:"bytes"`
}

func (t tools) addWork(s *mcp.Server) {
	yes, no := true, false
	mcp.AddTool(s, &mcp.Tool{Name: "run_command", Description: "Run a command line as root in a sandbox that runs, and wait for its end.",
		Annotations: &mcp.ToolAnnotations{DestructiveHint: &yes, OpenWorldHint: &yes}}, tool(t.run))
	mcp.AddTool(s, &mcp.Tool{Name: "read_file", Description: "Read a file of a sandbox that runs.",
		Annotations: &mcp.ToolAnnotations{ReadOnlyHint: true, OpenWorldHint: &no}}, tool(t.read))
	mcp.AddTool(s, &mcp.Tool{Name: "write_file", Description: "Write a file of a sandbox that runs, in place of an older one by that name.",
		Annotations: &mcp.ToolAnnotations{DestructiveHint: &yes, IdempotentHint: true, OpenWorldHint: &no}}, tool(t.write))
}

func (t tools) run(ctx context.Context, in runInput) (runOutput, error) {
	limit := time.Duration(in.TimeoutSeconds) * time.Second
	if limit == 0 {
		limit = defaultTimeout
	}
	if limit < 0 || limit > maxTimeout {
		return runOutput{}, fmt.Errorf("timeout_seconds is %d: it must be from 1 to %d", in.TimeoutSeconds, int(maxTimeout.Seconds()))
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	command, err := t.c.Exec(ctx, in.Sandbox, api.ExecRequest{Argv: []string{"/bin/sh", "-c", in.Command}, Cwd: in.Cwd, Env: in.Env})
	if err != nil {
		return runOutput{}, err
	}
	var stdout, stderr ends
	status, err := command.Run(ctx, strings.NewReader(in.Stdin), &stdout, &stderr)
	result := runOutput{ExitStatus: status, Stdout: stdout.text(), Stderr: stderr.text(), Cut: stdout.lost > 0 || stderr.lost > 0}
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		result.ExitStatus, result.TimedOut = -1, true
		return result, nil
	}
	return result, err
}

// ends keeps the beginning and the end of an output.
type ends struct {
	head, tail []byte
	lost       int64
}

// Write implements io.Writer.
func (e *ends) Write(p []byte) (int, error) {
	n := len(p)
	room := min(maxOutput/2-len(e.head), len(p))
	e.head, p = append(e.head, p[:room]...), p[room:]
	e.tail = append(e.tail, p...)
	if extra := len(e.tail) - maxOutput/2; extra > 0 {
		e.tail = append(e.tail[:0], e.tail[extra:]...)
		e.lost += int64(extra)
	}
	return n, nil
}

func (e *ends) text() string {
	text := string(e.head)
	if e.lost > 0 {
		text += fmt.Sprintf("\n[%d bytes left out]\n", e.lost)
	}
	return valid(text + string(e.tail))
}

// valid puts a sign in the place of what is no UTF-8.
func valid(text string) string { return strings.ToValidUTF8(text, "\uFFFD") }

// errEnough ends the reading of a file of which there is more.
var errEnough = errors.New("enough was read")

// window takes maxOutput bytes from an offset on.
type window struct {
	skip int64
	got  bytes.Buffer
	more bool
}

// Write implements io.Writer.
func (w *window) Write(p []byte) (int, error) {
	n := len(p)
	skipped := min(w.skip, int64(len(p)))
	w.skip -= skipped
	p = p[skipped:]
	room := min(maxOutput-w.got.Len(), len(p))
	w.got.Write(p[:room])
	if room < len(p) {
		w.more = true
		return n, errEnough
	}
	return n, nil
}

func (t tools) read(ctx context.Context, in readInput) (readOutput, error) {
	if in.Offset < 0 {
		return readOutput{}, fmt.Errorf("offset is %d: it can't be negative", in.Offset)
	}
	w := window{skip: in.Offset}
	if _, err := t.c.ReadFile(ctx, in.Sandbox, in.Path, &w, nil); err != nil && !w.more {
		return readOutput{}, err
	}
	var out readOutput
	content := w.got.Bytes()
	if w.more {
		content = content[:wholeRunes(content)]
		out.Next = in.Offset + int64(len(content))
	}
	if utf8.Valid(content) {
		out.Text = string(content)
	} else {
		out.Base64 = base64.StdEncoding.EncodeToString(content)
	}
	return out, nil
}

// wholeRunes is how many of the bytes are before a character that was cut.
func wholeRunes(p []byte) int {
	for i := len(p) - 1; i >= max(0, len(p)-utf8.UTFMax); i-- {
		if utf8.RuneStart(p[i]) {
			if utf8.FullRune(p[i:]) {
				return len(p)
			}
			return i
		}
	}
	return len(p)
}

func (t tools) write(ctx context.Context, in writeInput) (writeOutput, error) {
	var content io.Reader = strings.NewReader(in.Text)
	if in.Base64 != "" {
		if in.Text != "" {
			return writeOutput{}, errors.New("text and base64 are both set: a file has one content")
		}
		data, err := base64.StdEncoding.DecodeString(in.Base64)
		if err != nil {
			return writeOutput{}, fmt.Errorf("base64 is none: %w", err)
		}
		content = bytes.NewReader(data)
	}
	mode := fs.FileMode(0o644)
	if in.Executable {
		mode = 0o755
	}
	copied, err := t.c.WriteFile(ctx, in.Sandbox, in.Path, mode, content, nil)
	return writeOutput{copied.Bytes}, err
}
