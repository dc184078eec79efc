package failpoint

// Point is the name of a step: the operation, a dot, what has been done. The crash tests search the
// source for calls of Here with a name, and for conversions: Point("name").
type Point string
