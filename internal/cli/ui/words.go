package ui

// words say what a step of the daemon means for a person. A step that is not
// here has a name that says it.
var words = map[string]string{
	"queue":            "waiting for other VMs to boot",
	"create.record":    "making the VM",
	"create.image":     "getting the image",
	"create.kernel":    "getting the kernel",
	"create.disk":      "making the disk",
	"create.commit":    "making the VM",
	"start.record":     "starting",
	"start.kernel":     "getting the kernel",
	"start.network":    "connecting the network",
	"start.console":    "starting",
	"start.ports":      "starting",
	"start.spawn":      "starting the machine",
	"start.identity":   "starting the machine",
	"start.configure":  "starting the machine",
	"start.boot":       "booting",
	"start.agent":      "waiting for the guest",
	"start.commit":     "waiting for the guest",
	"start.stage":      "waiting for the guest's services",
	"stop.record":      "stopping",
	"stop.shutdown":    "waiting for the guest to shut down",
	"stop.kill":        "ending the machine",
	"delete.record":    "deleting",
	"delete.kill":      "ending the machine",
	"delete.directory": "deleting the disk",
	"workspace.copy":   "copying the workspace",
	"workspace.save":   "saving the work of the workspace",

	"copy": "copying",

	"find the kernel":                 "finding the kernel",
	"download the kernel":             "downloading the kernel",
	"unpack the kernel":               "unpacking the kernel",
	"extract the kernel":              "extracting the kernel",
	"unpack the kernel's modules":     "unpacking the kernel's modules",
	"make the kernel's modules drive": "making the kernel's modules drive",
	"keep the kernel":                 "keeping the kernel",
}

// Phrase says in words what a step of the daemon is.
func Phrase(step string) string {
	if words[step] != "" {
		return words[step]
	}
	return Clean(step)
}
