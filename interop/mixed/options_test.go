package mixed

import "os"

// full is true where there is time for everything.
func full() bool { return os.Getenv("QUORATE_INTEROP_FULL") != "" }
