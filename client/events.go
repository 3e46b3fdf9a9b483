package client

import (
	"context"
	"encoding/json"
	"io"
	"net/http"

	"github.com/banger-vm/banger/api"
)

// Report receives the steps of a long operation, one at a time. A nil one is
// allowed.
type Report func(api.StepEvent)

// operation runs a long operation to its end.
func (c *Client) operation(ctx context.Context, path string, in any, report Report) (api.Result, error) {
	resp, err := c.send(ctx, http.MethodPost, path, in)
	if err != nil {
		return api.Result{}, err
	}
	defer resp.Body.Close()
	return c.result(ctx, resp.Body, report)
}

// result reads events up to the one that ends the operation.
func (c *Client) result(ctx context.Context, events io.Reader, report Report) (api.Result, error) {
	for decoder := json.NewDecoder(events); ; {
		var e api.Event
		if err := decoder.Decode(&e); err != nil {
			return api.Result{}, c.broken(ctx, err)
		}
		switch {
		case e.Error != nil:
			return api.Result{}, e.Error
		case e.Result != nil:
			return *e.Result, nil
		case e.Step != nil && report != nil:
			report(*e.Step)
		}
	}
}
