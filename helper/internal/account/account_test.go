package account

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestID(t *testing.T) {
	file := []byte("root:x:0:0:root:/root:/bin/sh\n#alice:x:1:1\nalice2:x:9:9::/:\nbad:x:-1:1::/:\nhigh:x:4294967295:1::/:\nshort:x\nalice:x:1000:1000::/:\nalice:x:2000:1::/:\nlast:x:7:")
	for name, want := range map[string]uint32{"root": 0, "alice": 1000, "alice2": 9, "last": 7} {
		id, ok := ID(file, name)
		require.True(t, ok, name)
		require.Equal(t, want, id, name)
	}
	for _, name := range []string{"", "ali", "bad", "high", "short", "nobody", "root:x", "x\nroot", "#alice2"} {
		_, ok := ID(file, name)
		require.False(t, ok, name)
	}
}

func FuzzID(f *testing.F) {
	f.Add([]byte("root:x:0:0:root:/root:/bin/sh\n"), "root")
	f.Fuzz(func(t *testing.T, file []byte, name string) {
		if id, ok := ID(file, name); ok && (id == 1<<32-1 || name == "") {
			t.Fatal(id)
		}
	})
}
