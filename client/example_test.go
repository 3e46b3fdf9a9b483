package client_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"
	"strings"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/client"
)

// A VM is made, started and waited for. Its progress can be shown.
func ExampleClient_Create() {
	c, err := client.Default()
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	created, err := c.Create(context.Background(), api.CreateRequest{Name: "example", Wait: api.WaitAgent}, func(s api.StepEvent) {
		if s.Warning {
			fmt.Println("warning:", s.Detail)
		}
	})
	if err != nil {
		log.Fatal(err)
	}
	defer created.Close()
	fmt.Println(created.VM.Name, "is", created.VM.State)
	// prints: example is running
}

// A command's output and exit status come apart from what goes wrong on the way
// to it.
func ExampleClient_Exec() {
	c, err := client.Default()
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	ctx := context.Background()
	command, err := c.Exec(ctx, "example", api.ExecRequest{Argv: []string{"sh", "-c", "pwd; exit 3"}, Cwd: "/srv", Wait: api.WaitAgent})
	if err != nil {
		log.Fatal(err)
	}
	var stdout bytes.Buffer
	status, err := command.Run(ctx, nil, &stdout, os.Stderr)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s%d\n", stdout.String(), status)
	// prints: /srv
	// 3
}

// What a command reads and writes can be streams of any length.
func ExampleCommand_Run() {
	c, err := client.Default()
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	ctx := context.Background()
	command, err := c.Exec(ctx, "example", api.ExecRequest{Argv: []string{"tr", "a-z", "A-Z"}, Wait: api.WaitAgent})
	if err != nil {
		log.Fatal(err)
	}
	input, output := io.Pipe()
	go func() {
		for _, word := range []string{"one", "two", "three"} {
			fmt.Fprintln(output, word)
		}
		output.Close()
	}()
	if _, err := command.Run(ctx, input, os.Stdout, os.Stderr); err != nil {
		log.Fatal(err)
	}
	// prints: ONE
	// TWO
	// THREE
}

// Files and trees go in and come back.
func ExampleClient_CopyIn() {
	c, err := client.Default()
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.WriteFile(filepath.Join(dir, "note"), []byte("hello from the host\n"), 0o600); err != nil {
		log.Fatal(err)
	}
	copied, err := c.CopyIn(ctx, "example", filepath.Join(dir, "note"), "/srv/", nil)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(copied.Files, "file,", copied.Bytes, "bytes")
	if _, err := c.CopyOut(ctx, "example", "/srv/note", filepath.Join(dir, "back"), nil); err != nil {
		log.Fatal(err)
	}
	back, err := os.ReadFile(filepath.Join(dir, "back"))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Print(string(back))
	// prints: 1 file, 20 bytes
	// hello from the host
}

// A single file is a stream as well.
func ExampleClient_WriteFile() {
	c, err := client.Default()
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	ctx := context.Background()
	if _, err := c.WriteFile(ctx, "example", "/etc/motd", 0o644, strings.NewReader("welcome\n"), nil); err != nil {
		log.Fatal(err)
	}
	if _, err := c.ReadFile(ctx, "example", "/etc/motd", os.Stdout, nil); err != nil {
		log.Fatal(err)
	}
	// prints: welcome
}

// A session lives on without its clients: what one of them sends, and what is
// printed, is not lost when the daemon ends.
func ExampleClient_AttachSession() {
	c, err := client.Default()
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	ctx := context.Background()
	start := api.StartSession{Name: "planner", Argv: []string{"sh", "-c", "read line; echo got $line; exit 5"}, Wait: api.WaitAgent}
	if _, err := c.StartSession(ctx, "example", start); err != nil {
		log.Fatal(err)
	}
	attachment, err := c.AttachSession(ctx, "example", "planner", api.AttachSession{}, true)
	if err != nil {
		log.Fatal(err)
	}
	defer attachment.Close()
	fmt.Fprintln(attachment, "a line")
	end, err := attachment.Copy(os.Stdout, os.Stderr, nil)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(end.State, *end.Status)
	if err := c.DeleteSession(ctx, "example", "planner"); err != nil {
		log.Fatal(err)
	}
	// prints: got a line
	// ended 5
}

// A deleted VM is gone with its disk. Errors have a kind.
func ExampleClient_DeleteVM() {
	c, err := client.Default()
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	ctx := context.Background()
	if err := c.DeleteVM(ctx, "example", nil); err != nil {
		log.Fatal(err)
	}
	_, err = c.VM(ctx, "example")
	var told *api.Error
	fmt.Println(errors.As(err, &told) && told.Kind == api.KindNotFound)
	// prints: true
}

// examples are run one by one against a real VM by an end-to-end test, in a
// program that is this package's test.
var examples = map[string]func(){
	"Create": ExampleClient_Create, "Exec": ExampleClient_Exec, "Run": ExampleCommand_Run,
	"CopyIn": ExampleClient_CopyIn, "WriteFile": ExampleClient_WriteFile, "AttachSession": ExampleClient_AttachSession,
	"DeleteVM": ExampleClient_DeleteVM,
}
