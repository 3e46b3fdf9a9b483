package firecracker

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// Fault is an error answer of the API.
type Fault struct {
	// Status is the HTTP status, 400 for nearly all.
	Status int
	// Message is the answer's fault_message.
	Message string
}

func (f *Fault) Error() string {
	return fmt.Sprintf("the VMM answered %d: %s", f.Status, f.Message)
}

// Client speaks the API of one VMM. It asks for the VMM's version before its
// first request and never sends a field or a request that this version does
// not know. Its methods may be called at once; the VMM serves them in turn.
//
// Every method can return a [*Fault], and one that sends newer fields a
// [*TooOldError].
type Client struct {
	http *http.Client
	once sync.Mutex
	seen *Version
}

// NewClient speaks to the VMM that listens on this unix socket; the path may
// be of any length. Nothing is sent yet.
func NewClient(sockPath string) *Client {
	return &Client{http: &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialUnix(ctx, sockPath)
		},
		DisableCompression: true,
		MaxConnsPerHost:    2,
		// The VMM has room for ten connections in all: idle ones are not kept.
		IdleConnTimeout: time.Second,
	}}}
}

// Close drops idle connections. The client can still be used.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Version is the VMM's version, asked for once.
func (c *Client) Version(ctx context.Context) (Version, error) {
	c.once.Lock()
	defer c.once.Unlock()
	if c.seen != nil {
		return *c.seen, nil
	}
	var answer struct {
		Version string `json:"firecracker_version"`
	}
	if err := c.do(ctx, http.MethodGet, "/version", nil, &answer); err != nil {
		return Version{}, err
	}
	v, err := ParseVersion(answer.Version)
	if err != nil {
		return Version{}, err
	}
	c.seen = &v
	return v, nil
}

// Describe asks who the VMM is and whether its machine runs. It can be asked
// at any time.
func (c *Client) Describe(ctx context.Context) (InstanceInfo, error) {
	var info InstanceInfo
	return info, c.do(ctx, http.MethodGet, "/", nil, &info)
}

// VMConfig is the whole configuration as the VMM has it.
func (c *Client) VMConfig(ctx context.Context) (VMConfig, error) {
	var config VMConfig
	return config, c.do(ctx, http.MethodGet, "/vm/config", nil, &config)
}

// MachineConfig is the machine's processors and memory as the VMM has them.
func (c *Client) MachineConfig(ctx context.Context) (MachineConfig, error) {
	var config MachineConfig
	return config, c.do(ctx, http.MethodGet, "/machine-config", nil, &config)
}

// PutMachineConfig sets processors and memory, before the start.
func (c *Client) PutMachineConfig(ctx context.Context, m MachineConfig) error {
	return c.send(ctx, http.MethodPut, "/machine-config", m)
}

// PutBootSource sets kernel, initrd and command line, before the start.
func (c *Client) PutBootSource(ctx context.Context, b BootSource) error {
	return c.send(ctx, http.MethodPut, "/boot-source", b)
}

// PutDrive adds a drive or replaces the one of the same id, before the start.
func (c *Client) PutDrive(ctx context.Context, d Drive) error {
	return c.send(ctx, http.MethodPut, "/drives/"+d.DriveID, d)
}

// PatchDrive changes a drive's file or limits, after the start.
func (c *Client) PatchDrive(ctx context.Context, u DriveUpdate) error {
	return c.send(ctx, http.MethodPatch, "/drives/"+u.DriveID, u)
}

// PutNetworkInterface adds an interface or replaces the one of the same id,
// before the start.
func (c *Client) PutNetworkInterface(ctx context.Context, n NetworkInterface) error {
	return c.send(ctx, http.MethodPut, "/network-interfaces/"+n.IfaceID, n)
}

// PatchNetworkInterface changes an interface's limits, after the start.
func (c *Client) PatchNetworkInterface(ctx context.Context, u NetworkInterfaceUpdate) error {
	return c.send(ctx, http.MethodPatch, "/network-interfaces/"+u.IfaceID, u)
}

// PutVsock gives the guest its vsock device, before the start, and binds the
// socket: a file that is already there is a Fault.
func (c *Client) PutVsock(ctx context.Context, v Vsock) error {
	return c.send(ctx, http.MethodPut, "/vsock", v)
}

// PutEntropy gives the guest its source of entropy, before the start.
func (c *Client) PutEntropy(ctx context.Context, e Entropy) error {
	return c.send(ctx, http.MethodPut, "/entropy", e)
}

// PutBalloon gives the guest its balloon, before the start.
func (c *Client) PutBalloon(ctx context.Context, b Balloon) error {
	return c.send(ctx, http.MethodPut, "/balloon", b)
}

// PatchBalloon sets how much memory the guest is to give back, after the
// start.
func (c *Client) PatchBalloon(ctx context.Context, u BalloonUpdate) error {
	return c.send(ctx, http.MethodPatch, "/balloon", u)
}

// BalloonStats asks for the guest's memory numbers, after the start, when the
// balloon was made with a polling interval.
func (c *Client) BalloonStats(ctx context.Context) (BalloonStats, error) {
	var stats BalloonStats
	return stats, c.do(ctx, http.MethodGet, "/balloon/statistics", nil, &stats)
}

// PutLogger sets where the VMM's log goes, before the start.
func (c *Client) PutLogger(ctx context.Context, l Logger) error {
	return c.send(ctx, http.MethodPut, "/logger", l)
}

// PutMetrics sets where the VMM's metrics go, once, before the start.
func (c *Client) PutMetrics(ctx context.Context, m Metrics) error {
	return c.send(ctx, http.MethodPut, "/metrics", m)
}

// FlushMetrics writes one line of metrics now, after the start.
func (c *Client) FlushMetrics(ctx context.Context) error {
	return c.send(ctx, http.MethodPut, "/actions", Action{ActionFlushMetrics})
}

// InstanceStart boots the machine, once.
func (c *Client) InstanceStart(ctx context.Context) error {
	return c.send(ctx, http.MethodPut, "/actions", Action{ActionInstanceStart})
}

// SendCtrlAltDel presses these keys in the guest, after the start (x86-64).
func (c *Client) SendCtrlAltDel(ctx context.Context) error {
	return c.send(ctx, http.MethodPut, "/actions", Action{ActionSendCtrlAltDel})
}

// PatchVM pauses or resumes the machine, after the start; repeating it is
// harmless. See [Version.LosesVsockOnResume] before pausing.
func (c *Client) PatchVM(ctx context.Context, state VMState) error {
	return c.send(ctx, http.MethodPatch, "/vm", VM{state})
}

// send fits the body to the VMM's version and sends it.
func (c *Client) send(ctx context.Context, method, path string, body any) error {
	v, err := c.Version(ctx)
	if err != nil {
		return err
	}
	fit, err := fitTo(v, body)
	if err != nil {
		return fmt.Errorf("cannot %s %s: %w", method, path, err)
	}
	return c.do(ctx, method, path, fit, nil)
}

// answerLimit is far above any answer of the API but bounds a broken VMM's.
const answerLimit = 16 << 20

func (c *Client) do(ctx context.Context, method, path string, body, answer any) error {
	if err := c.exchange(ctx, method, path, body, answer); err != nil {
		return fmt.Errorf("cannot %s %s: %w", method, path, err)
	}
	return nil
}

func (c *Client) exchange(ctx context.Context, method, path string, body, answer any) error {
	request, err := newRequest(ctx, method, path, body)
	if err != nil {
		return err
	}
	response, err := c.http.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	content, err := io.ReadAll(io.LimitReader(response.Body, answerLimit))
	if err != nil {
		return err
	}
	if response.StatusCode >= 300 {
		return faultOf(response.StatusCode, content)
	}
	if answer == nil {
		return nil
	}
	return json.Unmarshal(content, answer)
}

// newRequest makes a request whose body has a Content-Length: Firecracker
// reads no other.
func newRequest(ctx context.Context, method, path string, body any) (*http.Request, error) {
	if body == nil {
		return http.NewRequestWithContext(ctx, method, "http://localhost"+path, nil)
	}
	content, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(ctx, method, "http://localhost"+path, bytes.NewReader(content))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", "application/json")
	return request, nil
}

func faultOf(status int, content []byte) *Fault {
	var answer struct {
		Message string `json:"fault_message"`
	}
	if err := json.Unmarshal(content, &answer); err != nil || answer.Message == "" {
		answer.Message = strings.TrimSpace(string(content))
	}
	return &Fault{Status: status, Message: answer.Message}
}

// FaultMessage is the API's own words in err, or "" when it was no answer.
func FaultMessage(err error) string {
	if fault, ok := errors.AsType[*Fault](err); ok {
		return fault.Message
	}
	return ""
}
