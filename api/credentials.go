package api

// Credentials answers POST /v1/vms/{vm}/credentials: the files of the guest
// that now have the host's content, and the files of the host that were not
// taken, with the reason. A file that the host has not is in neither.
type Credentials struct {
	Given   []string  `json:"given"`
	Refused []Refused `json:"refused,omitempty"`
}

// Refused is a thing that was left out, and why.
type Refused struct {
	Path string `json:"path"`
	Why  string `json:"why"`
}
