// SPDX-License-Identifier: Apache-2.0

package protocol

import "strconv"

// canonical hashes the value of an input in a form that survives the server: a number and
// the text of that number are the same, whatever the form of the number.
type canonical struct {
	sum  uint64    // FNV-1a
	link [2]string // the items of a list of two
}

// hashed is the hash of two texts.
func hashed(a, b string) uint64 {
	c := canonical{sum: fnvOffset}
	c.write(0, a)
	c.write(0, b)
	return c.sum
}

func (c *canonical) add(b byte) { c.sum = (c.sum ^ uint64(b)) * fnvPrime }

func (c *canonical) write(kind byte, s string) {
	c.add(kind)
	for i := range len(s) {
		c.add(s[i])
	}
	c.add(0)
}

func (c *canonical) scalar(s string) {
	if s == "" || (s[0] < '0' || s[0] > '9') && s[0] != '-' && s[0] != '+' && s[0] != '.' {
		c.write('=', s)
		return
	}
	if _, err := strconv.ParseInt(s, 10, 64); err != nil {
		if _, err := strconv.ParseUint(s, 10, 64); err != nil { // a seed exceeds an int64
			if f, err := strconv.ParseFloat(s, 64); err == nil {
				s = strconv.FormatFloat(f, 'f', -1, 64)
			}
		}
	}
	c.write('=', s)
}

// list hashes a list and reports whether it may be a link.
func (c *canonical) list(d document) (isLink bool, err error) {
	c.write('[', "")
	n, scalars := 0, 0
	err = d.array(func(i int) error {
		n++
		if k := d.PeekKind(); k != '"' && k != '0' {
			return c.value(d)
		}
		var item string
		_, err := d.id(&item)
		c.scalar(item)
		if i < len(c.link) {
			c.link[i] = item
		}
		scalars++
		return err
	})
	c.write(']', "")
	return n == 2 && scalars == 2, err
}

func (c *canonical) value(d document) error {
	switch kind := d.PeekKind(); kind {
	case '[':
		_, err := c.list(d)
		return err
	case '{':
		c.write('{', "")
		err := d.object(func(name string) error {
			c.write(':', name)
			return c.value(d)
		})
		c.write('}', "")
		return err
	case '"', '0':
		var s string
		_, err := d.id(&s)
		c.scalar(s)
		return err
	default:
		c.write(byte(kind), "")
		return d.SkipValue()
	}
}
