package mcptools

import (
	"context"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/banger-vm/banger/api"
)

// sandbox is what a model needs to know of a VM.
type sandbox struct {
	Name    string `json:"name" jsonschema:"what the other tools know it by"`
	State   string `json:"state" jsonschema:"running, stopped, …"`
	Reason  string `json:"reason,omitempty" jsonschema:"why it is in this state"`
	Image   string `json:"image"`
	Address string `json:"address,omitempty" jsonschema:"its address on the host's bridge"`
}

func describe(vm api.VM) sandbox {
	return sandbox{Name: vm.Name, State: string(vm.State), Reason: vm.Reason, Image: vm.Image, Address: vm.Address}
}

type sandboxes struct {
	Sandboxes []sandbox `json:"sandboxes"`
}

type nothing struct{}

type named struct {
	Sandbox string `json:"sandbox" jsonschema:"the sandbox's name"`
}

type deleted struct {
	Deleted string `json:"deleted" jsonschema:"the name of the sandbox that is gone"`
}

type createInput struct {
	Name        string `json:"name,omitempty" jsonschema:"a name of a-z, 0-9 and -; made up when left out"`
	Image       string `json:"image,omitempty" jsonschema:"the image to start from; the default one when left out"`
	VCPUs       int    `json:"vcpus,omitempty" jsonschema:"number of processors"`
	MemoryMiB   int64  `json:"memory_mib,omitempty" jsonschema:"memory in MiB"`
	DiskMiB     int64  `json:"disk_mib,omitempty" jsonschema:"disk in MiB"`
	Credentials bool   `json:"credentials,omitempty" jsonschema:"let the sandbox have the user's credentials of coding agents; only when the user asked for it"`
}

func (t tools) addSandboxes(s *mcp.Server) {
	yes, no := true, false
	mcp.AddTool(s, &mcp.Tool{Name: "sandbox_list", Description: "List the sandboxes there are.",
		Annotations: &mcp.ToolAnnotations{ReadOnlyHint: true, OpenWorldHint: &no}}, tool(t.list))
	mcp.AddTool(s, &mcp.Tool{Name: "sandbox_create", Description: "Make a sandbox and start it. It takes seconds; the first time on a host, minutes.",
		Annotations: &mcp.ToolAnnotations{DestructiveHint: &no, OpenWorldHint: &no}}, tool(t.create))
	mcp.AddTool(s, &mcp.Tool{Name: "sandbox_start", Description: "Start a sandbox that is stopped.",
		Annotations: &mcp.ToolAnnotations{DestructiveHint: &no, OpenWorldHint: &no}}, tool(t.start))
	mcp.AddTool(s, &mcp.Tool{Name: "sandbox_stop", Description: "Shut a sandbox down. Its files stay.",
		Annotations: &mcp.ToolAnnotations{DestructiveHint: &no, OpenWorldHint: &no}}, tool(t.stop))
	mcp.AddTool(s, &mcp.Tool{Name: "sandbox_delete", Description: "Delete a sandbox and all files in it, for good.",
		Annotations: &mcp.ToolAnnotations{DestructiveHint: &yes, OpenWorldHint: &no}}, tool(t.delete))
}

func (t tools) list(ctx context.Context, _ nothing) (sandboxes, error) {
	vms, err := t.c.VMs(ctx)
	list := sandboxes{Sandboxes: []sandbox{}}
	for _, vm := range vms {
		list.Sandboxes = append(list.Sandboxes, describe(vm))
	}
	return list, err
}

func (t tools) create(ctx context.Context, in createInput) (sandbox, error) {
	created, err := t.c.Create(ctx, api.CreateRequest{
		Name: in.Name, Image: in.Image, VCPUs: in.VCPUs, MemoryMiB: in.MemoryMiB, DiskMiB: in.DiskMiB, NoCredentials: !in.Credentials,
	}, nil)
	if err != nil {
		return sandbox{}, err
	}
	defer created.Close()
	return describe(created.VM), nil
}

func (t tools) start(ctx context.Context, in named) (sandbox, error) {
	vm, err := t.c.StartVM(ctx, in.Sandbox, api.StartRequest{}, nil)
	return describe(vm), err
}

func (t tools) stop(ctx context.Context, in named) (sandbox, error) {
	vm, err := t.c.StopVM(ctx, in.Sandbox, api.StopRequest{}, nil)
	return describe(vm), err
}

func (t tools) delete(ctx context.Context, in named) (deleted, error) {
	return deleted{in.Sandbox}, t.c.DeleteVM(ctx, in.Sandbox, nil)
}
