package debian

import (
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/progress"
)

var bothSuites = []string{"bookworm", "bookworm-security"}

// host is options without a mirror setting, and the text of a sources.list in
// which {} stands for the mirror's URL.
func hostOptions(m *testMirror, sources string) Options {
	opts := m.options()
	opts.Mirror = ""
	writeFile(m.t, filepath.Join(opts.AptDir, "sources.list"), strings.ReplaceAll(sources, "{}", m.URL))
	return opts
}

// TestMirrorChoice has one server as several archives: /debian and
// /debian-security are Debian's, /ubuntu is signed by another key, /own says
// another Origin though it is signed well.
func TestMirrorChoice(t *testing.T) {
	tests := map[string]struct {
		sources  string
		fallback string // path of Debian's own mirror
		want     string // sources found, as paths
		warns    bool
	}{
		"a Debian host": {
			sources: "deb {}/debian bookworm main\ndeb {}/debian-security bookworm-security main\n",
			want:    "/debian bookworm, /debian-security bookworm-security",
		},
		"a Debian host of another release": {
			sources: "deb {}/debian trixie main\ndeb {}/debian-security trixie-security main\n",
			want:    "/debian bookworm, /debian-security bookworm-security",
		},
		"an Ubuntu host": {
			sources:  "deb {}/ubuntu noble main\ndeb {}/ubuntu noble-security main\n",
			fallback: "/debian",
			want:     "/debian bookworm, /debian-security bookworm-security",
		},
		"an archive that names the suite and is somebody else's": {
			sources:  "deb [arch=amd64] {}/own bookworm stable\n",
			fallback: "/debian",
			want:     "/debian bookworm, /debian-security bookworm-security",
		},
		"somebody else's before Debian's": {
			sources: "deb {}/own bookworm stable\ndeb {}/ubuntu bookworm main\ndeb {}/debian bookworm main\n",
			want:    "/debian bookworm",
			warns:   true,
		},
		"no apt at all": {
			fallback: "/debian",
			want:     "/debian bookworm, /debian-security bookworm-security",
		},
		"a mirror without the security archive": {
			fallback: "/bare/debian",
			want:     "/bare/debian bookworm",
			warns:    true,
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			m := newMirror(t)
			m.publish(publication{suite: "bookworm"})
			m.publish(publication{suite: "bookworm-security"})
			m.publishAt("/bare/debian", publication{suite: "bookworm"})
			m.publishAt("/own", publication{suite: "bookworm", origin: "Own"})
			opts := hostOptions(m, test.sources)
			if test.fallback != "" {
				opts.fallback = m.URL + test.fallback
			}
			trusted := opts.Keyring
			m.key = newKey(t)
			m.publishAt("/ubuntu", publication{suite: "bookworm"})
			opts.Keyring = trusted
			var warnings []string
			a, err := Open(t.Context(), opts, func(e progress.Event) {
				if e.Warning {
					warnings = append(warnings, e.Detail)
				}
			}, bothSuites...)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, s := range a.Sources() {
				got = append(got, strings.TrimPrefix(s.URL, m.URL)+" "+s.Suite)
			}
			if strings.Join(got, ", ") != test.want {
				t.Errorf("got %v", got)
			}
			if warned := len(warnings) == 1 && strings.Contains(warnings[0], "`security_mirror` is unset"); warned != test.warns {
				t.Errorf("warnings: %q", warnings)
			}
		})
	}
}

func TestConfiguredMirrors(t *testing.T) {
	m := newMirror(t)
	m.publishAt("/a/debian", publication{suite: "bookworm"})
	m.publishAt("/a/debian-security", publication{suite: "bookworm-security"})
	m.publishAt("/b", publication{suite: "bookworm-security"})
	opts := m.options()
	opts.Mirror = m.URL + "/a/debian/"
	if got := open(t, opts, bothSuites...).Sources()[1].URL; got != m.URL+"/a/debian-security" {
		t.Errorf("beside the mirror: %s", got)
	}
	opts.SecurityMirror = m.URL + "/b/"
	if got := open(t, opts, bothSuites...).Sources()[1].URL; got != m.URL+"/b" {
		t.Errorf("configured: %s", got)
	}
	opts.SecurityMirror = m.URL + "/absent"
	if _, err := Open(t.Context(), opts, progress.Discard, bothSuites...); kindOf(err) != api.KindUnreachable {
		t.Errorf("a configured security mirror that lacks the suite: %v", err)
	}
	opts.SecurityMirror, opts.Mirror = "", m.URL+"/absent"
	if _, err := Open(t.Context(), opts, progress.Discard, "bookworm"); kindOf(err) != api.KindUnreachable {
		t.Errorf("a configured mirror that lacks the suite: %v", err)
	}
}

// TestSecurityIsNotDroppedSilently: when the host's apt names the security
// archive, a failure of it is no reason to go without.
func TestSecurityIsNotDroppedSilently(t *testing.T) {
	tests := map[string]struct {
		until  time.Time
		answer int
		kind   api.Kind
	}{
		"it is past its time":   {time.Now().Add(-time.Hour), 0, api.KindUntrusted},
		"its server is failing": {time.Now().Add(time.Hour), http.StatusInternalServerError, api.KindUnreachable},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			m := newMirror(t)
			m.publish(publication{suite: "bookworm"})
			m.publish(publication{suite: "bookworm-security", validUntil: test.until})
			m.before = func(w http.ResponseWriter, r *http.Request) bool {
				fail := test.answer != 0 && strings.HasPrefix(r.URL.Path, "/debian-security")
				if fail {
					w.WriteHeader(test.answer)
				}
				return fail
			}
			opts := hostOptions(m, "deb {}/debian bookworm main\ndeb {}/debian-security bookworm-security main\n")
			if _, err := Open(t.Context(), opts, progress.Discard, bothSuites...); kindOf(err) != test.kind {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestUpdatesSuiteIsOptional(t *testing.T) {
	m := newMirror(t)
	m.publish(publication{suite: "bookworm"})
	a := open(t, m.options(), "bookworm", "bookworm-updates")
	if a.Has("bookworm-updates") || !a.Has("bookworm") {
		t.Errorf("got %v", a.Sources())
	}
}

func TestDeadHostArchiveIsPassedOver(t *testing.T) {
	m := newMirror(t)
	m.publish(publication{suite: "bookworm"})
	dead := httptest.NewServer(http.NotFoundHandler())
	dead.Close()
	opts := hostOptions(m, "deb "+dead.URL+" stable main\ndeb {}/debian trixie main\n")
	if got := open(t, opts, "bookworm").Sources()[0].URL; got != m.URL+"/debian" {
		t.Errorf("got %s", got)
	}
}

func TestNeighbour(t *testing.T) {
	for mirror, want := range map[string]string{
		"http://m.test/debian":        "http://m.test/debian-security",
		"http://m.test/debian/":       "http://m.test/debian-security",
		"http://m.test/pub/debian":    "http://m.test/pub/debian-security",
		"http://u:p@m.test:81/debian": "http://u:p@m.test:81/debian-security",
		"http://m.test":               "http://m.test/debian-security",
	} {
		if got := neighbour(mirror); got != want {
			t.Errorf("%s: got %s", mirror, got)
		}
	}
}
