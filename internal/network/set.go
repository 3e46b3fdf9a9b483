package network

import (
	"context"
	"errors"
	"log/slog"
)

// Network holds one bridge and what hangs on it. Its methods may be called
// from several goroutines.
type Network struct {
	cfg Config
	log *slog.Logger
}

// New takes over a network: it touches nothing until the first [Network.Set].
func New(cfg Config, log *slog.Logger) *Network {
	return &Network{cfg: cfg, log: log}
}

// Set makes bridge, taps, rules and resolver be what the attached VMs need, no
// more and no less. The same set twice changes nothing. The first Set of a
// process adopts what an earlier one left, and does not interrupt the traffic
// of VMs in attached.
func (n *Network) Set(ctx context.Context, attached []Lease) error {
	return errors.ErrUnsupported
}

// Close ends the network. With VMs to keep, what they need stays in the
// kernel (only the resolver goes with the process); with none everything is
// removed and every sysctl is as it was.
func (n *Network) Close(ctx context.Context, keep []Lease) error {
	return errors.ErrUnsupported
}
