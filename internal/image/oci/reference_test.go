package oci_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/image/oci"
)

func TestWhatIsNoReference(t *testing.T) {
	for text, hint := range map[string]string{
		"https://example.org/app:1": "without https://, like example.org/app:1",
		"./app.tar":                 "banger image pull --tar ./app.tar",
		"../app.tar":                "banger image pull --tar ../app.tar",
		"/srv/app.tar":              "banger image pull --tar /srv/app.tar",
		"~/app.tar":                 "banger image pull --tar ~/app.tar",
		"alpine:":                   "write one like",
		"ALPINE:3":                  "write one like",
		"app@sha256:abc":            "write one like",
		"":                          "write one like",
	} {
		_, err := oci.Parse(text)
		var told *api.Error
		if !errors.As(err, &told) || told.Kind != api.KindBadRequest || !strings.HasSuffix(told.Message, " is no reference to an image") || !strings.Contains(told.Hint, hint) {
			t.Errorf("%q: %#v", text, err)
		}
	}
}
