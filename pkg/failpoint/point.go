package failpoint

// Point is the name of a step: the operation, a dot, what has been done. A name that does not stand
// in a call of Here is written as a conversion, Point("name"): the crash tests look for both.
type Point string
