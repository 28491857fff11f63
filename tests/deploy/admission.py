"""Evaluates ValidatingAdmissionPolicies as the API server does, with Google's CEL.

<https://kubernetes.io/docs/reference/access-authn-authz/validating-admission-policy/>

Variables are evaluated in their order, each sees those before it. An expression that fails is a refusal too
(failurePolicy Fail), but one by mistake: the two are distinguished. Types are checked as far as the expressions show them, not
against the API's schema.
"""
import re

from cel_expr_python import cel
from cel_expr_python.ext import ext_optional

DECLARED = {name: cel.Type.DYN for name in ("object", "oldObject", "request", "authorizer", "namespaceObject")}
# The one way of asking whether the user may do a thing that is known here.
AUTHORIZED = re.compile(r"\bauthorizer\.group\('(\w*)'\)\.resource\('(\w+)'\)\.check\('(\w+)'\)\.allowed\(\)")


class Compiler:
    """Compiles a policy's expressions one after the other: a variable is known, with its type, to those after it."""

    def __init__(self):
        self.types = dict(DECLARED)

    def compile(self, text):
        environment = cel.NewEnv(variables=self.types, extensions=[ext_optional.ExtOptional()])
        # CEL here has no type with named fields: variables.x is a variable of its own. Nor has it an authorizer: that is a
        # list of what the user may do, as `verb group/resource`.
        text = AUTHORIZED.sub(r"('\3 \1/\2' in authorizer)", text)
        return environment.compile(re.sub(r"\bvariables\.(\w+)", r"variables__\1", text))

    def variable(self, name, text):
        expression = self.compile(text)
        self.types[f"variables__{name}"] = expression.return_type()
        return f"variables__{name}", expression

    def of_type(self, text, kind):
        """As the API server, which takes no expression that may give another type."""
        expression = self.compile(text)
        assert expression.return_type() in (kind, cel.Type.DYN), (text, expression.return_type().name())
        return expression


class Policy:
    """A policy whose expressions are compiled."""

    def __init__(self, thing):
        spec = thing["spec"]
        self.name = thing["metadata"]["name"]
        self.rules = spec["matchConstraints"]["resourceRules"]
        compiler = Compiler()
        # Compiled first: they do not see the variables.
        self.conditions = [(each["name"], compiler.of_type(each["expression"], cel.Type.BOOL))
                           for each in spec.get("matchConditions", [])]
        self.variables = [compiler.variable(each["name"], each["expression"]) for each in spec.get("variables", [])]
        # A validation has no name of its own: its message begins with one.
        self.validations = [(each["message"].split(":")[0], compiler.of_type(each["expression"], cel.Type.BOOL))
                            for each in spec["validations"]]
        self.annotations = [(each["key"], compiler.of_type(each["valueExpression"], cel.Type.STRING))
                            for each in spec.get("auditAnnotations", [])]
        names = [name for name, _ in self.validations]
        # The API server takes no message of several lines.
        assert not any("\n" in each["message"] for each in spec["validations"])
        assert len(set(names)) == len(names) and all(" " not in name for name in names), names

    def matches(self, request):
        """Whether the policy looks at the request at all."""
        resource = request["resource"]["resource"]
        if request.get("subResource"):
            resource += "/" + request["subResource"]
        return any(
            request["operation"] in rule["operations"]
            and resource in rule["resources"]
            and request["resource"]["group"] in rule["apiGroups"]
            and request["resource"]["version"] in rule["apiVersions"]
            for rule in self.rules
        )

    def review(self, request, thing, old=None, rights=(), namespace_labels=None):
        """Names of the validations that refuse, what failed to evaluate, and the audit annotations.

        The user's rights are texts `verb group/resource`.
        """
        if not self.matches(request):
            return [], [], {}
        namespace = {"metadata": {"labels": namespace_labels or {}}}
        # What the API server gives for an object that has a name.
        request = {"name": thing.get("metadata", {}).get("name", ""), **request}
        data = {"object": thing, "oldObject": old, "request": request, "authorizer": list(rights),
                "namespaceObject": namespace}
        errors = []

        def value(name, expression, kind):
            result = expression.eval(data=data)
            if result.type() == cel.Type.ERROR or (kind and result.type() != kind):
                errors.append(f"{name}: {result.plain_value() if result.type() != cel.Type.ERROR else result.value()}")
                return None
            return result.plain_value()

        if not all(value(name, expression, cel.Type.BOOL) for name, expression in self.conditions) and not errors:
            return [], [], {}
        for name, expression in self.variables:
            data[name] = value(name, expression, None)
        refused = [name for name, expression in self.validations if value(name, expression, cel.Type.BOOL) is False]
        annotations = {key: value(key, expression, cel.Type.STRING) for key, expression in self.annotations}
        return refused, errors, {key: text for key, text in annotations.items() if text}
