package progress

import (
	"context"
	"crypto/rand"
	"encoding/hex"
)

type operationKey struct{}

// NewOperation gives a long operation an id, by which the logs, the events and
// what it leaves in a record know it.
func NewOperation(ctx context.Context) (context.Context, string) {
	var b [4]byte
	rand.Read(b[:])
	id := hex.EncodeToString(b[:])
	return context.WithValue(ctx, operationKey{}, id), id
}

// Operation is the id of the operation that ctx belongs to; "" without one.
func Operation(ctx context.Context) string {
	id, _ := ctx.Value(operationKey{}).(string)
	return id
}
