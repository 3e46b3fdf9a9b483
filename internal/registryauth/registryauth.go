// Package registryauth finds the credentials that a user has for registries of
// container images, where Docker and its helpers keep them.
package registryauth

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"

	"github.com/banger-vm/banger/api"
)

// helperTimeout bounds a credential helper, which is a program of the user's.
const helperTimeout = time.Minute

// For asks Docker's configuration, and the helpers that it names, which may
// hang. Who has no credentials there is anonymous. Errors are *api.Error of kind
// unauthorized, or the context's cause.
func For(ctx context.Context, target authn.Resource) (authn.Authenticator, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, helperTimeout, unauthorized(
		"look at credHelpers and credsStore in ~/.docker/config.json", "the credential helper for %s does not answer", target.RegistryStr()))
	defer cancel()
	type answer struct {
		auth authn.Authenticator
		err  error
	}
	answered := make(chan answer, 1)
	go func() {
		auth, err := authn.Resolve(ctx, authn.DefaultKeychain, target)
		answered <- answer{auth, err}
	}()
	select {
	case a := <-answered:
		if a.err == nil {
			return a.auth, nil
		}
		if ctx.Err() == nil {
			return nil, unauthorized("look at ~/.docker/config.json and the helpers it names; `docker login` writes it anew",
				"cannot get the credentials for %s: %v", target.RegistryStr(), a.err)
		}
	case <-ctx.Done():
	}
	return nil, context.Cause(ctx)
}

// Config gives a config.json of Docker's that has the credentials for these
// registries and for no other. Errors are *api.Error: bad-request, or
// unauthorized when there are none for one of them.
func Config(ctx context.Context, registries []string) ([]byte, error) {
	auths := map[string]entry{}
	for _, host := range registries {
		registry, err := name.NewRegistry(host, name.StrictValidation)
		if err != nil {
			return nil, &api.Error{Kind: api.KindBadRequest, Message: fmt.Sprintf("%q is no registry", host), Hint: "write its name as FROM has it, like registry.example.com or docker.io"}
		}
		found, err := credentials(ctx, host, registry)
		if err != nil {
			return nil, err
		}
		auths[keyOf(registry)] = found
	}
	return json.Marshal(map[string]any{"auths": auths})
}

// entry is what config.json says of a registry.
type entry struct {
	Auth          string `json:"auth,omitempty"`
	IdentityToken string `json:"identitytoken,omitempty"`
	RegistryToken string `json:"registrytoken,omitempty"`
}

func credentials(ctx context.Context, host string, registry name.Registry) (entry, error) {
	auth, err := For(ctx, registry)
	if err != nil {
		return entry{}, err
	}
	if auth == authn.Anonymous {
		return entry{}, unauthorized(fmt.Sprintf("`docker login %s` writes them to ~/.docker/config.json; skopeo's and podman's login do with --authfile", host),
			"there are no credentials for %s", host)
	}
	is, err := authn.Authorization(ctx, auth)
	if err != nil {
		return entry{}, unauthorized("look at ~/.docker/config.json", "cannot get the credentials for %s: %v", host, err)
	}
	e := entry{Auth: is.Auth, IdentityToken: is.IdentityToken, RegistryToken: is.RegistryToken}
	if is.Username != "" && is.Password != "" {
		e.Auth = base64.StdEncoding.EncodeToString([]byte(is.Username + ":" + is.Password))
	}
	return e, nil
}

// keyOf is what config.json calls a registry.
func keyOf(registry name.Registry) string {
	if registry.RegistryStr() == name.DefaultRegistry {
		return authn.DefaultAuthKey
	}
	return registry.RegistryStr()
}

func unauthorized(hint, format string, args ...any) error {
	return &api.Error{Kind: api.KindUnauthorized, Message: fmt.Sprintf(format, args...), Hint: hint}
}
