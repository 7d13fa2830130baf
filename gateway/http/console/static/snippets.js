// Writes the current conversation as code. A key is never an argument here, so none can appear in a snippet.

const python = (value) => {
  if (Array.isArray(value)) return `[\n${value.map((item) => indent(python(item))).join(",\n")},\n]`;
  if (value && typeof value === "object") {
    const inside = Object.entries(value).map(([name, item]) => `${JSON.stringify(name)}: ${python(item)}`);
    return `{${inside.join(", ")}}`;
  }
  return JSON.stringify(value); // strings and numbers are written alike in JSON and Python
};

const indent = (text) => text.split("\n").map((line) => `    ${line}`).join("\n");
const shellQuoted = (text) => `'${text.replaceAll("'", `'\\''`)}'`;

function curl(request, origin) {
  const body = JSON.stringify({ ...request, stream: true, stream_options: { include_usage: true } }, null, 2);
  return [
    "# export OPENAI_API_KEY=<your gateway key>",
    `curl -N ${shellQuoted(`${origin}/v1/chat/completions`)} \\`,
    `  -H "Authorization: Bearer $OPENAI_API_KEY" \\`,
    `  -H 'Content-Type: application/json' \\`,
    `  -d ${shellQuoted(body)}`,
  ].join("\n");
}

function openai(request, origin) {
  const { model, messages, ...options } = request;
  return [
    "# pip install openai; export OPENAI_API_KEY=<your gateway key>",
    "from openai import OpenAI",
    "",
    `client = OpenAI(base_url=${JSON.stringify(`${origin}/v1`)})`,
    "stream = client.chat.completions.create(",
    `    model=${JSON.stringify(model)},`,
    `${indent(`messages=${python(messages)}`)},`,
    ...Object.entries(options).map(([name, value]) => `    ${name}=${python(value)},`),
    "    stream=True,",
    `    stream_options={"include_usage": True},`,
    ")",
    "for chunk in stream:",
    "    if chunk.choices:",
    `        print(chunk.choices[0].delta.content or "", end="", flush=True)`,
    "    elif chunk.usage:",
    `        print("\\n", chunk.usage)`,
  ].join("\n");
}

function mlflow(request, origin) {
  const { model, messages, ...options } = request;
  return [
    `# pip install mlflow-skinny databricks-sdk; export DATABRICKS_HOST=${origin} DATABRICKS_TOKEN=<your gateway key>`,
    "import mlflow.deployments",
    "",
    `client = mlflow.deployments.get_deploy_client("databricks")`,
    "response = client.predict(",
    `    endpoint=${JSON.stringify(model)},`,
    "    inputs={",
    `${indent(indent(`"messages": ${python(messages)}`))},`,
    ...Object.entries(options).map(([name, value]) => `        ${JSON.stringify(name)}: ${python(value)},`),
    "    },",
    ")",
    `print(response["choices"][0]["message"]["content"])`,
  ].join("\n");
}

export const snippets = { curl, openai, mlflow };
